//! Files of sorted channels.

use serde_json::json;

use super::{Expected, Made};
use crate::generators::{Source, mutations};

/// A file made from a valid one.
pub fn make(source: &mut Source) -> Made {
    let good = json!({"model.layers.0.self_attn.qk_proj": [[0, 1, 2, 3], [3, 1, 0, 2]],
                      "model.layers.1.self_attn.qk_proj": [[2, 1, 0, 3], [0, 1, 3, 2]]});
    let text = good.to_string();
    let (expected, how, content) = match source.below(8) {
        0 => (Expected::Read, "good", text),
        1 => (
            Expected::Refused("a channel file that is cut is refused"),
            "cut",
            text[..source.below(text.len())].to_owned(),
        ),
        2 => {
            let again = "\"model.layers.0.self_attn.qk_proj\":[[3,2,1,0],[0,1,2,3]],";
            (
                Expected::Refused("a layer of channels that stands twice is refused"),
                "a layer that stands twice",
                format!("{{{again}{}", &text[1..]),
            )
        }
        3 => {
            let names = ["model.layers.18446744073709551616", "layers.0", "model.layers.", "model.layers.-1", ""];
            let name = source.pick::<&str>(&names);
            (
                Expected::Refused("channels without the layer are refused"),
                "another layer",
                text.replace("model.layers.0", name),
            )
        }
        4 => {
            let channel = *source.pick(&["4", "-1", "1e0", "18446744073709551615", "18446744073709551616", "null"]);
            (
                Expected::Refused("a channel that is none is refused"),
                "a channel that is none",
                text.replacen("3,1", &format!("3,{channel}"), 1),
            )
        }
        5 => (Expected::Either, "another number", mutations::other_number(source, &text)),
        _ => (Expected::Either, "a changed text", mutations::of_text(source, &text)),
    };
    Made { content: content.into_bytes(), extension: "json", expected, how: how.to_owned() }
}
