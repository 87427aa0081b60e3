//! Each folder of `src` uses only folders that are below it in [LEVELS]. The tests read the source files, without comments,
//! texts and test modules.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The folders of `src` from the bottom up. A folder may use the folders of earlier lines, but no other folder of its own
/// line.
const LEVELS: [&[&str]; 11] = [
    &["backend", "device", "io", "metrics"],
    &["config", "mask"],
    &["problem"],
    &["kernels", "state"],
    &["attention", "scorer"],
    &["masker"],
    &["method"],
    &["nn", "plot", "train", "tune"],
    &["models", "report"],
    &["eval"],
    &["adapters"],
];

/// The kernels on slices. They use nothing from outside of their folder but [PLAIN_DATA].
const SLICES: [&str; 2] = ["kernels", "cpu"];
const PLAIN_DATA: [&str; 2] = ["mask", "Pattern"];

#[test]
fn folders_use_only_folders_below_them() {
    let src = src();
    let files = rust_files(&src);
    assert!(files.len() > 200, "only {} files in {}", files.len(), src.display());
    let errors: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let name = file.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
            forbidden_uses(&name, &fs::read_to_string(file).unwrap())
        })
        .collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

#[test]
fn every_folder_has_one_level() {
    let entries = fs::read_dir(src()).unwrap().map(|entry| entry.unwrap());
    let folders: BTreeSet<String> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name != "lib.rs")
        .map(|name| name.trim_end_matches(".rs").to_owned())
        .collect();
    let listed: Vec<String> = LEVELS.concat().into_iter().map(str::to_owned).collect();
    assert_eq!(listed.len(), folders.len());
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), folders);
}

#[test]
fn a_planted_upward_import_is_found() {
    let planted = "\
//! Lists of keys.
use std::ops::Range;

use super::{Mask, MaskForm as Form};
use crate::{
    device::{self, check_size},
    attention::{AttentionReport, DenseReference},
};
";
    let errors = forbidden_uses("mask/planted.rs", planted);
    let edge = "`mask` uses `attention`. It may use: backend, device, io, metrics";
    assert_eq!(
        errors,
        [
            format!("src/mask/planted.rs:7: attention::AttentionReport: {edge}"),
            format!("src/mask/planted.rs:7: attention::DenseReference: {edge}"),
        ]
    );
}

#[test]
fn every_form_of_path_is_read() {
    let forbidden = |code: &str| !forbidden_uses("scorer/fit.rs", code).is_empty();
    for upward in [
        "use crate::masker::TopK;",
        "use crate::method;",
        "use crate::{mask::Mask, nn::{self, KvCache}};",
        "pub(crate) use crate::nn::*;",
        "fn f(masker: &dyn crate::masker::Masker<B>) {}",
        "fn f() { let x = crate::nn::sparse_attention::<B>(1); }",
        "use super::super::masker::TopK;",
        "use super::{super::{mask::Mask, masker::TopK}, Scorer};",
        "macro_rules! m { () => { $crate::masker::TopK }; }",
        // Folders of one level do not use each other.
        "use crate::attention::masked_attention;",
        // Nothing is taken from the root, where names from above are too.
        "use crate::prelude::Masker;",
        "const A: char = '\"'; use crate::masker::TopK; const B: char = '\"';",
        "#[cfg(not(test))] use crate::masker::TopK;",
        "#[cfg(feature = \"train\")]\nmod a { use crate::masker::TopK; }",
        "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::masker::TopK;",
    ] {
        assert!(forbidden(upward), "{upward}");
    }
    for allowed in [
        "use crate::{config::ConfigError, kernels::cpu::products, mask::Mask, state::LayerState};",
        "use super::{keys::Host, Scorer};",
        "pub(crate) fn f(state: &mut crate::state::LayerState) {}",
        "use burn::masker::TopK;",
        "/// [TopK](crate::masker::TopK)\n// use crate::masker::TopK;\n/* use crate::nn; /* */ use crate::nn; */",
        "const A: &str = \"use crate::masker::TopK;\"; const B: &str = r#\"\"crate::nn::A\"\"#;",
        "#[cfg(test)]\nmod tests { use crate::masker::TopK; fn f() { if true {} } }",
        "#[cfg(all(test, feature = \"flex\"))]\n#[allow(unused)]\nmod tests { use crate::masker::TopK; }",
        "#[cfg(test)]\nuse crate::masker::{TopK, TopP};",
    ] {
        assert!(!forbidden(allowed), "{allowed}: {:?}", forbidden_uses("scorer/fit.rs", allowed));
    }
}

#[test]
fn the_kernels_on_slices_use_no_tensors() {
    let uses = |code: &str| forbidden_uses("kernels/cpu/backward/band.rs", code).len();
    assert_eq!(uses("use super::{super::tile::fill, Trace}; use crate::{kernels::cpu::Heads, mask::Pattern};"), 0);
    assert_eq!(uses("use burn::tensor::Tensor;"), 1);
    assert_eq!(uses("use crate::mask::{Mask, Pattern};"), 1);
    assert_eq!(uses("use super::super::super::dispatch::host_tensor;"), 1);
    assert_eq!(uses("use crate::kernels::SparseBackend;"), 1);
    assert_eq!(forbidden_uses("kernels/cpu_backends/flex.rs", "use burn::tensor::Tensor;").len(), 0);
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(rust_files(&path)),
            false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
            false => {}
        }
    }
    files.sort();
    files
}

/// One message for each path in a file that its folder may not use. `name` is the path of the file below `src`.
fn forbidden_uses(name: &str, text: &str) -> Vec<String> {
    let module: Vec<&str> = name.trim_end_matches(".rs").trim_end_matches("/mod").split('/').collect();
    if module == ["lib"] {
        return Vec::new();
    }
    let on_slices = module.starts_with(&SLICES);
    let mut errors = Vec::new();
    for (line, path) in paths(&without_tests(tokens(text))) {
        let target = from_root(&module, &path);
        let target: Vec<&str> = target.iter().map(String::as_str).collect();
        let reason = match on_slices {
            true if target.starts_with(&SLICES) || target == PLAIN_DATA => continue,
            true => format!("`{}` uses only itself and `{}`", SLICES.join("::"), PLAIN_DATA.join("::")),
            false if path[0] == "burn" || target.first() == Some(&module[0]) => continue,
            false => {
                let used = target.first().copied().unwrap_or("the root");
                let level = LEVELS.iter().position(|level| level.contains(&module[0]));
                let below = LEVELS[..level.unwrap_or(0)].concat();
                if below.contains(&used) {
                    continue;
                }
                format!("`{}` uses `{used}`. It may use: {}", module[0], below.join(", "))
            }
        };
        errors.push(format!("src/{name}:{line}: {}: {reason}", target.join("::")));
    }
    errors
}

/// A path from the root of the crate. A path of another crate stays as it is.
fn from_root(module: &[&str], path: &[String]) -> Vec<String> {
    let mut target: Vec<String> = match path[0].as_str() {
        "super" => module.iter().map(|part| (*part).to_owned()).collect(),
        _ => Vec::new(),
    };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => drop(target.pop()),
            _ => target.push(part.clone()),
        }
    }
    target
}

/// A name or a sign, and its line from 1.
type Token = (usize, String);

/// The names and signs of a Rust file, without comments and literals. `::` is one sign.
fn tokens(text: &str) -> Vec<Token> {
    let text: Vec<char> = text.chars().collect();
    let starts = |at: usize, with: &str| with.chars().enumerate().all(|(i, sign)| text.get(at + i) == Some(&sign));
    let is_name = |at: usize| text.get(at).is_some_and(|sign| sign.is_alphanumeric() || *sign == '_');
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < text.len() {
        let first = at;
        if starts(at, "//") {
            while at < text.len() && text[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            let mut open = 0;
            loop {
                match () {
                    () if starts(at, "/*") => (open, at) = (open + 1, at + 2),
                    () if starts(at, "*/") => (open, at) = (open - 1, at + 2),
                    () => at += 1,
                }
                if open == 0 || at >= text.len() {
                    break;
                }
            }
        } else if text[at] == 'r' && (starts(at + 1, "\"") || starts(at + 1, "#\"") || starts(at + 1, "##\"")) {
            let marks = (at + 1..).take_while(|&i| text[i] == '#').count();
            let end = format!("\"{}", "#".repeat(marks));
            at += marks + 2;
            while at < text.len() && !starts(at, &end) {
                at += 1;
            }
            at += end.len();
        } else if text[at] == '"' {
            at += 1;
            while at < text.len() && text[at] != '"' {
                at += if text[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if starts(at, "'\\") {
            // An escaped quote follows the backslash at once.
            at += 3;
            while at < text.len() && text[at] != '\'' {
                at += 1;
            }
            at += 1;
        } else if text[at] == '\'' && text.get(at + 2) == Some(&'\'') {
            at += 3;
        } else if is_name(at) {
            while is_name(at) {
                at += 1;
            }
            tokens.push((line, text[first..at].iter().collect()));
        } else if starts(at, "::") {
            at += 2;
            tokens.push((line, "::".to_owned()));
        } else {
            if !text[at].is_whitespace() {
                tokens.push((line, text[at].to_string()));
            }
            at += 1;
        }
        line += text[first..at.min(text.len())].iter().filter(|sign| **sign == '\n').count();
    }
    tokens
}

/// The tokens without the items that are compiled for tests only.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let is = |at: usize, signs: &[&str]| {
        signs.iter().enumerate().all(|(i, sign)| tokens.get(at + i).is_some_and(|token| token.1 == *sign))
    };
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let of_tests = ["#", "[", "cfg", "("];
        if is(at, &of_tests) && (is(at + 4, &["test", ")"]) || is(at + 4, &["all", "(", "test"])) {
            // The item ends with the bracket that closes its first one, or with a semicolon before any.
            while at < tokens.len() && !is(at, &["{"]) && !is(at, &[";"]) {
                at += 1;
            }
            let mut open = 0;
            while at < tokens.len() {
                open += usize::from(is(at, &["{"]));
                open -= usize::from(is(at, &["}"]));
                at += 1;
                if open == 0 {
                    break;
                }
            }
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// All paths that start with `crate`, `super` or `burn`, with their lines. Those in braces are written out.
fn paths(tokens: &[Token]) -> Vec<(usize, Vec<String>)> {
    let (mut paths, mut at) = (Vec::new(), 0);
    while at + 1 < tokens.len() {
        let starts = matches!(tokens[at].1.as_str(), "crate" | "super" | "burn") && tokens[at + 1].1 == "::";
        at = match starts {
            true => tree(tokens, at, Vec::new(), &mut paths),
            false => at + 1,
        };
    }
    paths
}

/// Reads a path or a tree of paths, and returns the place behind it.
fn tree(tokens: &[Token], at: usize, mut path: Vec<String>, paths: &mut Vec<(usize, Vec<String>)>) -> usize {
    let sign = |at: usize| tokens.get(at).map_or("", |token| token.1.as_str());
    let mut at = at;
    loop {
        path.push(sign(at).to_owned());
        let line = tokens[at].0;
        at += 1;
        match (sign(at), sign(at + 1)) {
            ("::", "{") => {
                at += 2;
                while at < tokens.len() && sign(at) != "}" {
                    at = tree(tokens, at, path.clone(), paths);
                    if sign(at) == "as" {
                        at += 2;
                    }
                    if sign(at) == "," {
                        at += 1;
                    }
                }
                return at + 1;
            }
            ("::", "<") | ("::", "") => break paths.push((line, path)),
            ("::", _) => at += 1,
            _ => break paths.push((line, path)),
        }
    }
    at
}
