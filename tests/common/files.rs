//! Files of weights and channels that fit some sizes, and the scorers that read them.

use serde_json::{Value, json};

use super::{Sizes, generator, normal};

/// Where a file of the test may lie that is made for some sizes.
pub fn scratch(kind: &str, sizes: &Sizes) -> std::path::PathBuf {
    let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "-");
    let name = format!("{kind}-{}-{}-{thread}", sizes.heads, sizes.head_dim);
    std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Random perceptrons of two matrices for as many heads as the sizes have, in two layers of a model.
pub fn hash(sizes: &Sizes) -> Value {
    let (path, widths) = (scratch("hash", sizes), [sizes.head_dim, 7, 70]);
    let mut rng = generator(5);
    let mut tensors = Vec::new();
    for (layer, part) in [(0, "query"), (0, "key"), (1, "query"), (1, "key")] {
        for (index, width) in widths.windows(2).enumerate() {
            let shape = vec![sizes.heads, width[0], width[1]];
            tensors.push((format!("hat.{layer}.{part}_matrix.{index}"), shape));
            tensors.push((format!("hat.{layer}.{part}_bias.{index}"), vec![sizes.heads, width[1]]));
        }
    }
    let numbers = tensors.iter().map(|(_, shape)| normal(&mut rng, shape.iter().product()));
    let bytes = numbers.map(|x| x.into_iter().flat_map(f32::to_le_bytes).collect()).collect::<Vec<Vec<u8>>>();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &path).unwrap();
    json!({"type": "hash", "hat_bits": 70, "hat_mlp_layers": 2, "hat_mlp_hidden_size": 7, "hat_mlp_activation": "silu",
           "hat_weights": path})
}

/// Channels in an order that differs from head to head, in two layers of a model.
pub fn channels(sizes: &Sizes) -> Value {
    let path = scratch("channels", sizes);
    let in_order = |head| (0..sizes.head_dim).map(|channel| (channel + head) % sizes.head_dim).collect::<Vec<_>>();
    let by_head = (0..sizes.heads).map(in_order).collect::<Vec<_>>();
    let layers = json!({"model.layers.0.self_attn.qk_proj": by_head, "model.layers.1.self_attn.qk_proj": by_head});
    std::fs::write(&path, layers.to_string()).unwrap();
    let factor = if sizes.head_dim > 2 { 2 } else { 1 };
    json!({"type": "channels", "sorted_channel_file": path, "group_factor": factor, "label_bits": 4,
           "channel_selection": "qk_proj"})
}
