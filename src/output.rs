//! Writing files: atomically, through symbolic links, keeping mode and owner, and with a check that
//! a file is writable before its content is computed. The counterpart of [`crate::untrusted`].

use std::fs::File;
use std::path::{Path, PathBuf};

#[cfg(not(target_arch = "wasm32"))]
use std::fs::{Metadata, OpenOptions};
#[cfg(not(target_arch = "wasm32"))]
use std::io::Write;

use crate::error::{Error, Result};

/// Part of a temporary file's name after the name of the target file.
const MARK: &str = ".incept-";
/// Extension of temporary files.
const ENDING: &str = ".tmp";
/// Characters of the target's name in a temporary file's name, because names are limited to 255
/// bytes.
const STEM: usize = 50;
/// Environment variable for the folder of caches.
#[cfg(not(target_arch = "wasm32"))]
const CACHE: &str = "INCEPT_CACHE_DIR";
/// Maximum chain of symbolic links, as in Linux.
#[cfg(not(target_arch = "wasm32"))]
const LINKS: usize = 40;

/// Target of an output.
#[cfg(not(target_arch = "wasm32"))]
enum Target {
    /// A regular file, existing (with its metadata) or new, which is replaced atomically.
    Replace(PathBuf, Option<Metadata>),
    /// A terminal, character device or pipe, which is written to directly.
    Through(PathBuf),
    /// Standard output.
    Output,
    /// Standard error.
    Errors,
}

/// The folder of caches: `INCEPT_CACHE_DIR`, or `incept` in the system's cache folder. It may not
/// exist yet.
///
/// # Errors
/// [`Error::Io`] if the system has no such folder.
#[cfg(not(target_arch = "wasm32"))]
pub fn cache_folder() -> Result<PathBuf> {
    let named = std::env::var_os(CACHE).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let missing = || {
        let reason = format!("this system has no cache folder: set {CACHE}");
        Error::io("the cache", std::io::Error::new(std::io::ErrorKind::NotFound, reason))
    };
    named.or_else(|| Some(dirs::cache_dir()?.join("incept"))).ok_or_else(missing)
}

/// Writes a file atomically: to a temporary file in the same folder, which is synced and renamed.
///
/// Symbolic links are followed, and an existing file keeps its mode and owner. Character devices
/// and pipes are written to directly; block devices and sockets are rejected.
///
/// # Errors
/// [`Error::Io`] or [`Error::Format`] naming the file, whose old content is then unchanged.
#[cfg(not(target_arch = "wasm32"))]
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |e: std::io::Error| Error::io(path, e);
    let (file, before) = match target(path)? {
        Target::Replace(file, before) => (file, before),
        Target::Through(file) => return write_through(&file, bytes).map_err(fail),
        Target::Output => return write_all_to(std::io::stdout().lock(), bytes).map_err(fail),
        Target::Errors => return write_all_to(std::io::stderr().lock(), bytes).map_err(fail),
    };
    let folder = folder_of(&file);
    std::fs::create_dir_all(folder).map_err(fail)?;
    let mut temporary = temporary(&file, before.as_ref(), folder).map_err(fail)?;
    temporary.write_all(bytes).map_err(fail)?;
    keep_owner(path, temporary.as_file(), before.as_ref())?;
    temporary.as_file().sync_all().map_err(fail)?;
    temporary.persist(&file).map_err(|e| fail(e.error))?;
    // Syncs the folder so that the rename is durable; not every system supports this.
    #[cfg(unix)]
    if let Ok(folder) = File::open(folder) {
        folder.sync_all().map_err(fail)?;
    }
    Ok(())
}

/// Not supported without a file system.
///
/// # Errors
/// Always [`Error::Io`].
#[cfg(target_arch = "wasm32")]
pub fn write_atomically(path: &Path, _bytes: &[u8]) -> Result<()> {
    Err(Error::io(path, std::io::ErrorKind::Unsupported.into()))
}

/// Checks that [`write_atomically`] can write a file, before its content is computed. Leaves
/// nothing behind, and removes temporary files of the same file left by killed processes.
///
/// # Errors
/// As [`write_atomically`].
#[cfg(not(target_arch = "wasm32"))]
pub fn check_file(path: &Path) -> Result<()> {
    let fail = |e: std::io::Error| Error::io(path, e);
    let Target::Replace(file, before) = target(path)? else { return Ok(()) };
    let folder = existing(folder_of(&file)).map_err(fail)?;
    if folder == folder_of(&file) {
        remove_leftovers(folder, Some(&file));
    }
    let mut temporary = temporary(&file, before.as_ref(), folder).map_err(fail)?;
    keep_owner(path, temporary.as_file(), before.as_ref())?;
    // Writes some bytes, because a full disk may still have room for an empty file.
    temporary.write_all(b"incept").and_then(|()| temporary.flush()).map_err(fail)
}

/// Checks that files can be written to a folder, which need not exist yet. Leaves nothing behind.
///
/// # Errors
/// [`Error::Io`] naming the folder.
#[cfg(not(target_arch = "wasm32"))]
pub fn check_folder(path: &Path) -> Result<()> {
    let fail = |e: std::io::Error| Error::io(path, e);
    let folder = existing(path).map_err(fail)?;
    let mut temporary = temporary(Path::new("folder"), None, folder).map_err(fail)?;
    temporary.write_all(b"incept").and_then(|()| temporary.flush()).map_err(fail)
}

/// Whether a path is a device, pipe or socket, whose content cannot be read back as a file.
#[must_use]
pub fn is_special(path: &Path) -> bool {
    // Standard output may be redirected to a regular file, which must be appended to, not replaced.
    is_standard(path) || std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// Whether a path is an alias of standard output or standard error.
fn is_standard(path: &Path) -> bool {
    let names =
        ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"];
    path.to_str().is_some_and(|path| names.contains(&path))
}

/// Removes temporary files left by killed processes in a folder, all or those of one file. Files
/// still being written are locked and not removed. Returns the number removed.
pub fn remove_leftovers(folder: &Path, of: Option<&Path>) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let start = of.map(|file| format!(".{}{MARK}", stem(file)));
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let of_this = start.as_ref().is_none_or(|start| name.starts_with(start));
        of_this && name.starts_with('.') && name.contains(MARK) && name.ends_with(ENDING)
    };
    let left = |path: &PathBuf| {
        let regular = std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
        // A file that cannot be opened may be in use.
        regular && File::open(path).is_ok_and(|file| is_unused(&file))
    };
    let removed = |path: &PathBuf| std::fs::remove_file(path).is_ok();
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(ours).filter(left).filter(removed).count()
}

fn is_unused(file: &File) -> bool {
    !matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock))
}

/// The first characters of a file's name.
fn stem(file: &Path) -> String {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.chars().take(STEM).collect()
}

#[cfg(not(target_arch = "wasm32"))]
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The folder itself, or its nearest existing parent.
#[cfg(not(target_arch = "wasm32"))]
fn existing(mut folder: &Path) -> std::io::Result<&Path> {
    loop {
        match std::fs::metadata(folder) {
            Ok(found) if found.is_dir() => return Ok(folder),
            Ok(_) => return Err(std::io::ErrorKind::NotADirectory.into()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && folder != Path::new(".") => {
                folder = folder_of(folder);
            }
            Err(e) => return Err(e),
        }
    }
}

/// A temporary file to be renamed to `file`. It is locked while this process uses it.
#[cfg(not(target_arch = "wasm32"))]
fn temporary(
    file: &Path,
    before: Option<&Metadata>,
    folder: &Path,
) -> std::io::Result<tempfile::NamedTempFile> {
    let prefix = format!(".{}{MARK}", stem(file));
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(ENDING);
    // The usual mode of new files instead of owner-only, because reports and weights are shared. A
    // replaced file may have been private, so its mode is set before the rename.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(if before.is_some() {
        0o600
    } else {
        0o666
    }));
    #[cfg(not(unix))]
    let _ = before;
    let temporary = builder.tempfile_in(folder)?;
    // Where files cannot be locked, leftovers are not removed.
    let _ = temporary.as_file().try_lock();
    Ok(temporary)
}

/// Sets mode and owner to those of the replaced file.
#[cfg(not(target_arch = "wasm32"))]
fn keep_owner(path: &Path, file: &File, before: Option<&Metadata>) -> Result<()> {
    let Some(before) = before else { return Ok(()) };
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, fchown};
        let now = file.metadata().map_err(|e| Error::io(path, e))?;
        let (user, group) = (before.uid(), before.gid());
        if (now.uid(), now.gid()) != (user, group) {
            fchown(file, Some(user), Some(group)).map_err(|e| {
                let reason = format!(
                    "belongs to user {user} and group {group}, which cannot be kept ({e}): remove it or name another file"
                );
                Error::format(path, reason)
            })?;
        }
    }
    file.set_permissions(before.permissions()).map_err(|e| Error::io(path, e))
}

/// Resolves the target of a path.
#[cfg(not(target_arch = "wasm32"))]
fn target(path: &Path) -> Result<Target> {
    let fail = |e: std::io::Error| Error::io(path, e);
    let refuse = |kind: &str| Err(Error::format(path, format!("is {kind}: name a file")));
    // Opening these again would overwrite earlier output.
    match path.to_str() {
        Some("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => return Ok(Target::Output),
        Some("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2") => return Ok(Target::Errors),
        _ => {}
    }
    if path.as_os_str().is_empty() {
        return Err(Error::Config("the name of an output file is empty".into()));
    }
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return refuse("a folder");
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(Target::Replace(path.canonicalize().map_err(fail)?, Some(found))),
        Ok(found) if found.is_dir() => refuse("a folder"),
        #[cfg(unix)]
        Ok(found) if std::os::unix::fs::FileTypeExt::is_block_device(&found.file_type()) => {
            refuse("a block device")
        }
        #[cfg(unix)]
        Ok(found) if std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => refuse("a socket"),
        Ok(_) => Ok(Target::Through(path.to_path_buf())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Ok(Target::Replace(end_of_links(path).map_err(fail)?, None))
        }
        Err(e) => Err(fail(e)),
    }
}

/// The target of a dangling symbolic link; any other path itself.
#[cfg(not(target_arch = "wasm32"))]
fn end_of_links(path: &Path) -> std::io::Result<PathBuf> {
    let mut file = path.to_path_buf();
    for _ in 0..LINKS {
        match std::fs::read_link(&file) {
            Ok(next) => file = folder_of(&file).join(next),
            Err(_) => return Ok(file),
        }
    }
    Err(std::io::Error::other("too many symbolic links"))
}

#[cfg(not(target_arch = "wasm32"))]
fn write_all_to(mut to: impl Write, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).and_then(|()| to.flush())
}

/// Writes to a device or pipe. A pipe without a reader is an error, because opening it would block
/// forever.
#[cfg(not(target_arch = "wasm32"))]
fn write_through(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true);
    // Held until the pipe is reopened, so that its reader does not see the end.
    #[cfg(unix)]
    let _held = {
        let mut at_once = options.clone();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut at_once, libc::O_NONBLOCK);
        at_once.open(path).map_err(|e| match e.raw_os_error() {
            Some(libc::ENXIO) => std::io::Error::other("is a pipe that nothing reads"),
            _ => e,
        })?
    };
    write_all_to(options.open(path)?, bytes)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("can be listed");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn symbolic_links_are_followed_and_kept() {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("store")).expect("can be made");
        std::fs::write(at("store/old"), "old").expect("can be written");
        // A link to a file, a link to a link, and a dangling link.
        symlink("store/old", at("link")).expect("can be linked");
        symlink(at("link"), at("chain")).expect("can be linked");
        symlink("store/new", at("dangling")).expect("can be linked");
        for (link, file) in [("link", "store/old"), ("chain", "store/old"), ("dangling", "store/new")] {
            check_file(&at(link)).expect("can be written");
            write_atomically(&at(link), link.as_bytes()).expect("can be written");
            assert!(at(link).is_symlink(), "{link} was replaced");
            assert_eq!(std::fs::read_to_string(at(file)).expect("is there"), link);
        }
        symlink("loop", at("loop")).expect("can be linked");
        assert!(check_file(&at("loop")).is_err() && write_atomically(&at("loop"), b"").is_err());
        assert_eq!(names(&at("store")), ["new", "old"]);
    }

    #[test]
    fn file_mode_and_owner_are_kept() {
        let folder = folder();
        let file = folder.path().join("private");
        std::fs::write(&file, "old").expect("can be written");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).expect("can be set");
        // Only root can change the owner.
        let given = std::os::unix::fs::chown(&file, Some(12345), Some(54321)).is_ok();
        let before = std::fs::metadata(&file).expect("is there");
        assert_eq!(given, before.uid() == 12345);
        check_file(&file).expect("can be written");
        write_atomically(&file, b"new").expect("can be written");
        let after = std::fs::metadata(&file).expect("is there");
        assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
        assert_eq!(std::fs::read(&file).expect("is there"), b"new");
    }

    #[test]
    fn special_files_are_written_directly_or_rejected() {
        let folder = folder();
        let null = Path::new("/dev/null");
        let before = std::fs::metadata(null).expect("is there");
        check_file(null).expect("can be written");
        write_atomically(null, b"nothing").expect("takes everything");
        let after = std::fs::metadata(null).expect("is there");
        assert_eq!((after.ino(), after.mode()), (before.ino(), before.mode()), "/dev/null was replaced");
        assert!(is_special(null) && !is_special(folder.path()));

        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        let error = write_atomically(&pipe, b"x").expect_err("nobody reads").to_string();
        assert!(error.contains("nothing reads"), "{error}");
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::read(pipe)
        });
        let bytes = vec![7; 300_000];
        while write_atomically(&pipe, &bytes).is_err() {
            std::thread::yield_now();
        }
        assert_eq!(reader.join().expect("ends").expect("reads"), bytes);
        assert!(is_special(&pipe), "the pipe was replaced");

        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        for (refused, word) in [(socket.as_path(), "socket"), (folder.path(), "folder")] {
            for error in [check_file(refused), write_atomically(refused, b"x")] {
                let error = error.expect_err("is refused").to_string();
                assert!(error.contains(word), "{error}");
            }
        }
    }

    #[test]
    fn unwritable_outputs_are_detected_early() {
        let folder = folder();
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("can be written");
        for path in [file.join("below"), file.join("far/below"), "/proc/none/x".into()] {
            assert!(check_file(&path).is_err() && check_folder(&path).is_err(), "{}", path.display());
        }
        // The check does not create files or folders.
        check_file(&folder.path().join("a/b/c")).expect("can be written");
        check_folder(&folder.path().join("a/b")).expect("can be written");
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn only_leftover_temporary_files_are_removed() {
        let folder = folder();
        let make = |name: &str| {
            std::fs::write(folder.path().join(name), "half").expect("can be written");
        };
        let stays = [".last.safetensors.tmp", "last.safetensors", "notes.incept-a.tmp", ".b.incept-x"];
        stays.iter().for_each(|name| make(name));
        make(".last.safetensors.incept-Ab3dE6.tmp");
        make(".other.incept-Ab3dE6.tmp");
        let used = temporary(Path::new("last.safetensors"), None, folder.path()).expect("can be made");
        assert_eq!(remove_leftovers(folder.path(), Some(Path::new("x/last.safetensors"))), 1);
        assert_eq!(names(folder.path()).len(), stays.len() + 2);
        assert_eq!(remove_leftovers(folder.path(), None), 1);
        assert!(used.path().is_file(), "a file in use was removed");
        drop(used);
        let mut stays = stays.map(String::from).to_vec();
        stays.sort();
        assert_eq!(names(folder.path()), stays);
    }
}
