//! The code that the examples share: arguments, files, and exit codes.

#[path = "../examples/speed/cases.rs"]
#[allow(dead_code)] // Only the example uses its constants.
mod cases;
#[path = "../examples/common/mod.rs"]
mod shared;

use std::{io, path::Path, process::ExitCode};

use clap::{Arg, Command};
use shared::{Shard, Usage, count, count_or_none, end, files, find, fits_in_memory, given_or, seed_count};

#[test]
fn shards_count_from_one_and_cover_everything_once() {
    let parts = ["1/3", "2/3", "3/3"].map(|text| text.parse::<Shard>().expect("it is a part"));
    for number in 1..20 {
        assert_eq!(parts.iter().filter(|part| part.has(number)).count(), 1, "{number}");
    }
    for text in ["0/3", "4/3", "1/0", "1", "a/b", "-1/3"] {
        assert!(text.parse::<Shard>().unwrap_err().contains("the first from 1 to the second"), "{text}");
    }
}

#[test]
fn invalid_counts_are_refused() {
    let parse = |parser: clap::builder::ValueParser, value: &str| {
        let command = Command::new("example").arg(Arg::new("steps").long("steps").value_parser(parser));
        command.try_get_matches_from(["example", "--steps", value]).map(|_| ()).map_err(|error| error.exit_code())
    };
    for (value, at_least_1, or_none) in
        [("1", true, true), ("1000000000", true, true), ("0", false, true), ("-1", false, false), ("x", false, false)]
    {
        let wanted = |right| if right { Ok(()) } else { Err(2) };
        assert_eq!(parse(count().into(), value), wanted(at_least_1), "{value}");
        assert_eq!(parse(seed_count().into(), value), wanted(at_least_1), "{value}");
        assert_eq!(parse(count_or_none().into(), value), wanted(or_none), "{value}");
    }
    for value in ["1000000000000", "18446744073709551615", "18446744073709551616"] {
        assert_eq!(parse(count().into(), value), Err(2), "{value}");
    }
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let status = |code: u8| format!("{:?}", ExitCode::from(code));
    let ended = |done| format!("{:?}", end(done));
    assert_eq!(ended(Ok(())), status(0));
    assert_eq!(ended(Err(io::Error::from(io::ErrorKind::BrokenPipe).into())), status(141));
    assert_eq!(ended(Err(io::Error::from(io::ErrorKind::StorageFull).into())), status(1));
    assert_eq!(ended(Err("an error of the work".into())), status(1));
    assert_eq!(ended(Err(Usage("there is no such method".to_owned()).into())), status(2));
}

#[test]
fn an_unknown_method_is_an_error_that_lists_all() {
    let all = cases::table();
    let error = cases::named(all.clone(), None, Some("nope")).unwrap_err();
    for part in ["`nope`", "`dense`", "`hash 5 %, 32 bits`", "`oracle top-k 5 %`"] {
        assert!(error.contains(part), "{error}");
    }
    let error = cases::named(all.clone(), Some(10), Some("hash")).unwrap_err();
    assert!(error.contains("`hash`") && error.contains("at most 10 keys") && error.contains("32768"), "{error}");
    let hash = cases::named(all.clone(), Some(32_768), Some("hash")).expect("there are some");
    assert!(hash.iter().all(|case| case.keys <= 32_768 && case.method.name().contains("hash")));
    assert_eq!(cases::named(all.clone(), None, None).map(|cases| cases.len()), Ok(all.len()));
}

#[test]
fn a_file_that_the_package_leaves_out_is_named() {
    let error = find("examples/data/none.safetensors").unwrap_err().to_string();
    assert!(error.starts_with("examples/data/none.safetensors is neither in the current folder nor in"), "{error}");
    assert!(error.contains("in a clone of the repository"), "{error}");
    let given =
        given_or(&Some("mine".into()), "examples/data/none.safetensors").expect("what is given is not looked for");
    assert_eq!(given, Path::new("mine"));
}

#[test]
fn folders_without_files_are_named() {
    let found = files(&find("configs").expect("the folder is there"), "json").expect("it has files");
    assert!(found.is_sorted() && found.iter().any(|file| file.ends_with("quest.json")));
    for (folder, extension, part) in [("no/such/folder", "json", "no/such/folder"), ("configs", "none", ".none file")] {
        let error = files(Path::new(folder), extension).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn sizes_beyond_memory_are_an_error() {
    assert!(fits_in_memory("a step", &[4, 1, 8, 16_384, 128, 4]).is_ok());
    for lengths in [vec![4, 1, 8, 1_000_000_000_000, 128, 4], vec![1 << 40, 1 << 40], vec![usize::MAX, 2]] {
        let error = fits_in_memory("a step", &lengths).unwrap_err().to_string();
        assert!(error.contains("a step would take"), "{error}");
    }
}
