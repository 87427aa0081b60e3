use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::Serialize;

use super::{FileError, file_error::not_a_file};

/// A file that is written completely or not at all.
///
/// Create it before the work whose result it will hold. A path that cannot be written is then an error at the start and
/// not hours later. The content goes to a temporary file in the same folder. This file replaces the target when all of
/// its content is on disk. After an error, the earlier file is unchanged and the temporary file is removed. A symbolic
/// link stays, and the file that it names is written. Several programs may write in the same folder at the same time.
///
/// # Example
/// ```
/// use sparse_attention_hub::io::OutputFile;
///
/// let path = std::env::temp_dir().join(format!("figures-{}.json", std::process::id()));
/// let file = OutputFile::new(&path)?;
/// file.write(b"[0.5]\n")?;
/// assert_eq!(std::fs::read_to_string(&path)?, "[0.5]\n");
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFile {
    path: PathBuf,
}

impl OutputFile {
    /// The file at a path. The file need not exist yet, but its folder must exist.
    ///
    /// # Errors
    /// If the path names something other than a file (a folder, a device, a pipe), or the file or its folder cannot be
    /// written.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        let path = path.into();
        let target = Target::of(&path)?;
        // A temporary file that cannot be created now could not be created after the work either. This one is removed
        // at once.
        Partial::create(&target.path).map_err(|source| FileError::Write { path: path.clone(), source })?;
        Ok(Self { path })
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If the path no longer names a file, or the file cannot be written, for example because the disk is full or the
    /// folder is gone.
    pub fn write(&self, content: &[u8]) -> Result<(), FileError> {
        self.write_with(|file| file.write_all(content))
    }

    /// Writes a value as indented JSON with a line break at the end.
    ///
    /// # Errors
    /// As [write](Self::write), and if the value cannot be expressed in JSON.
    pub fn write_json(&self, value: &impl Serialize) -> Result<(), FileError> {
        self.write_with(|file| {
            serde_json::to_writer_pretty(&mut *file, value)?;
            file.write_all(b"\n")
        })
    }

    /// Writes the file with a function that gets the writer.
    ///
    /// # Errors
    /// As [write](Self::write), and if the function fails.
    pub fn write_with(&self, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), FileError> {
        // The path is looked up again, because it may name something else by now.
        let target = Target::of(&self.path)?;
        let write = || -> io::Result<()> {
            let mut partial = Partial::create(&target.path)?;
            let mut buffered = io::BufWriter::new(&mut partial.file);
            content(&mut buffered)?;
            buffered.flush()?;
            drop(buffered);
            if let Some(permissions) = target.permissions {
                partial.file.set_permissions(permissions)?;
            }
            partial.file.sync_all()?;
            partial.take_the_place_of(&target.path)
        };
        write().map_err(|source| FileError::Write { path: self.path.clone(), source })
    }
}

/// The largest number of symbolic links that are followed one after the other, as on Linux.
const MOST_LINKS: usize = 40;

/// What a path names when links are followed.
struct Target {
    path: PathBuf,
    /// The permissions of the existing file, if there is one.
    permissions: Option<fs::Permissions>,
}

impl Target {
    fn of(path: &Path) -> Result<Self, FileError> {
        let cannot_write = |source| FileError::Write { path: path.to_owned(), source };
        match fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => Err(not_a_file(path.to_owned(), &metadata)),
            Ok(metadata) if metadata.permissions().readonly() => {
                Err(cannot_write(io::Error::new(ErrorKind::PermissionDenied, "the file is read-only")))
            }
            Ok(metadata) => {
                let path = fs::canonicalize(path).map_err(cannot_write)?;
                Ok(Self { path, permissions: Some(metadata.permissions()) })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Ok(Self { path: not_there_yet(path).map_err(cannot_write)?, permissions: None })
            }
            Err(error) => Err(cannot_write(error)),
        }
    }
}

/// The path of a file that does not exist yet. Symbolic links in it are followed.
fn not_there_yet(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&path) {
            Ok(next) => path = folder_of(&path).join(next),
            Err(_) => break,
        }
    }
    let name = path.file_name().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the path names no file"))?;
    Ok(fs::canonicalize(folder_of(&path))?.join(name))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes the names of one program's temporary files different.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A temporary file in the target's folder. It is removed unless it takes the target's place.
struct Partial {
    path: PathBuf,
    file: File,
    placed: bool,
}

impl Partial {
    fn create(target: &Path) -> io::Result<Self> {
        loop {
            // The name does not contain the target's name, which may already be as long as names can be.
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = target.with_file_name(format!(".sparse-attention-{}-{number}.partial", std::process::id()));
            match File::create_new(&path) {
                Ok(file) => return Ok(Self { path, file, placed: false }),
                // A killed program left the file, or a program with the same process id on another machine made it.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take_the_place_of(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.placed {
            // The error of writing is reported. A temporary file that cannot be removed does no harm.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder for one test, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("output_file_{name}_{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn names(&self) -> Vec<String> {
            let names = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names = names.collect::<Vec<_>>();
            names.sort();
            names
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_appears_when_it_is_whole() {
        let folder = Folder::new("whole");
        let file = OutputFile::new(folder.0.join("a.json")).unwrap();
        assert_eq!(folder.names(), Vec::<String>::new());
        for text in ["first", "second"] {
            let before = folder.names();
            file.write_with(|to| {
                to.write_all(text.as_bytes())?;
                assert_eq!(
                    folder.names().iter().filter(|name| !name.starts_with('.')).collect::<Vec<_>>(),
                    before.iter().collect::<Vec<_>>()
                );
                Ok(())
            })
            .unwrap();
            assert_eq!((folder.names(), folder.read("a.json").as_str()), (vec!["a.json".to_owned()], text));
        }
        file.write_json(&[1, 2]).unwrap();
        assert_eq!(folder.read("a.json"), "[\n  1,\n  2\n]\n");
    }

    #[test]
    fn an_error_leaves_what_was_there_and_nothing_else() {
        let folder = Folder::new("error");
        fs::write(folder.0.join("a"), "old").unwrap();
        let file = OutputFile::new(folder.0.join("a")).unwrap();
        // Like a disk that becomes full while the content is written.
        let full = file.write_with(|to| {
            to.write_all(b"half of the content")?;
            Err(ErrorKind::StorageFull.into())
        });
        assert!(matches!(full, Err(FileError::Write { source, .. }) if source.kind() == ErrorKind::StorageFull));
        let panicked = std::panic::catch_unwind(|| file.write_with(|_| panic!("in the middle")));
        assert!(panicked.is_err());
        assert_eq!((folder.names(), folder.read("a").as_str()), (vec!["a".to_owned()], "old"));
    }

    #[test]
    fn files_of_like_names_do_not_meet() {
        let folder = Folder::new("names");
        let names = ["x.json", "x.txt", "x.partial", &"n".repeat(255)];
        let threads = names.map(|name| {
            let (file, name) = (OutputFile::new(folder.0.join(name)).unwrap(), name.to_owned());
            std::thread::spawn(move || (0..50).try_for_each(|_| file.write(name.as_bytes())))
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
        assert_eq!(folder.names().len(), names.len());
        names.iter().for_each(|name| assert_eq!(folder.read(name), *name));
    }

    #[test]
    fn what_cannot_be_written_is_an_error_before_the_work() {
        let folder = Folder::new("refused");
        let error = OutputFile::new(&folder.0).unwrap_err();
        assert!(matches!(&error, FileError::NotAFile { found: "a folder", .. }), "{error}");
        for path in [folder.0.join("none/a.json"), PathBuf::new(), PathBuf::from("..")] {
            assert!(OutputFile::new(&path).is_err(), "{path:?}");
        }
        let read_only = folder.0.join("read_only");
        fs::write(&read_only, "old").unwrap();
        let mut permissions = fs::metadata(&read_only).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&read_only, permissions).unwrap();
        assert!(matches!(OutputFile::new(&read_only), Err(FileError::Write { .. })));
        let file = OutputFile::new(folder.0.join("a")).unwrap();
        fs::create_dir(folder.0.join("a")).unwrap();
        assert!(matches!(file.write(b"new"), Err(FileError::NotAFile { .. })));
        assert_eq!(folder.names(), ["a", "read_only"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_devices_are_left_alone() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = Folder::new("links");
        let at = |name: &str| folder.0.join(name);
        fs::create_dir(at("inner")).unwrap();
        fs::write(at("inner/target"), "old").unwrap();
        fs::set_permissions(at("inner/target"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink("inner/target", at("link")).unwrap();
        symlink("link", at("link_to_link")).unwrap();
        symlink("inner/new", at("dangling")).unwrap();
        symlink("no/such/folder", at("lost")).unwrap();
        symlink("/dev/null", at("null")).unwrap();
        symlink("round", at("round")).unwrap();
        OutputFile::new(at("link_to_link")).unwrap().write(b"new").unwrap();
        assert_eq!(folder.read("inner/target"), "new");
        assert_eq!(fs::metadata(at("inner/target")).unwrap().permissions().mode() & 0o777, 0o600);
        OutputFile::new(at("dangling")).unwrap().write(b"made").unwrap();
        assert_eq!(folder.read("inner/new"), "made");
        for name in ["link", "link_to_link", "dangling"] {
            assert!(fs::symlink_metadata(at(name)).unwrap().is_symlink(), "{name}");
        }
        for path in [PathBuf::from("/dev/null"), PathBuf::from("/dev/full"), at("null")] {
            let error = OutputFile::new(&path).unwrap_err();
            assert!(matches!(&error, FileError::NotAFile { .. }), "{error}");
        }
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        assert!(OutputFile::new(at("lost")).is_err() && OutputFile::new(at("round")).is_err());
        assert_eq!(fs::read_dir(at("inner")).unwrap().count(), 2);
    }
}
