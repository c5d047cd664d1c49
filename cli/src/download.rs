//! Downloads of files with a published checksum; an interrupted download is resumed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use incept::low_level::untrusted::open_regular;
use incept::{Error, Result};
use md5::{Digest, Md5};
use sha2::Sha256;

use super::report::{Rate, Reporter, note, shown};

/// Timeout of each network operation.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum size of a file in bytes; the largest one that is downloaded has 162 MiB.
pub(crate) const MAX_BYTES: u64 = 512 << 20;

/// The published checksum of a file in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    /// MD5, as data sets publish it: it detects damage, not forgery.
    Md5(&'static str),
    /// The first digits of SHA-256, as PyTorch's file names have them.
    Sha256(&'static str),
}

impl Sum {
    fn name(self) -> &'static str {
        match self {
            Self::Md5(_) => "MD5 sum",
            Self::Sha256(_) => "SHA-256 sum",
        }
    }

    /// The published digits.
    fn expected(self) -> &'static str {
        match self {
            Self::Md5(digits) | Self::Sha256(digits) => digits,
        }
    }

    /// The sum of a file in hexadecimal.
    fn of(self, path: &Path) -> Result<String> {
        match self {
            Self::Md5(_) => hash::<Md5>(path),
            Self::Sha256(_) => hash::<Sha256>(path),
        }
    }

    /// Whether a file has this sum.
    fn matches(self, path: &Path) -> Result<bool> {
        Ok(self.of(path)?.starts_with(self.expected()))
    }
}

/// The hash of a file in hexadecimal.
fn hash<H: Digest>(path: &Path) -> Result<String> {
    let (mut file, _) = open_regular(path)?;
    let mut hash = H::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(|e| Error::io(path, e))?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A file to download.
#[derive(Debug)]
pub(crate) struct Download<'a> {
    pub url: String,
    /// Where the complete file is; the incomplete one has the extension `.part` in addition.
    pub path: &'a Path,
    pub sum: Sum,
    /// How to name a mirror, for error messages.
    pub mirror: &'static str,
}

/// What to do with a server's response.
enum Content {
    /// The bytes from this position on.
    From(u64, ureq::Body),
    /// The server has no bytes after those that are already here.
    NoMore,
    /// The response does not continue the file that is already here.
    Other,
}

impl Download<'_> {
    /// Downloads the file, unless it is complete already; returns whether it was.
    ///
    /// # Errors
    /// [`Error::Format`] that says which file to place where, [`Error::Io`] naming the file, and
    /// [`Error::Interrupted`] if `stop` was set; the same call resumes the download later.
    pub(crate) fn ensure(&self, stop: &AtomicBool, reporter: &Reporter) -> Result<bool> {
        if self.path.is_file() {
            if self.sum.matches(self.path)? {
                return Ok(true);
            }
            note(&format!("note: {} is damaged or incomplete; downloading it again", shown(self.path)));
        }
        self.run(stop, reporter)?;
        Ok(false)
    }

    fn failed(&self, reason: impl std::fmt::Display) -> Error {
        let advice = format!(
            "check the connection and run the command again, which resumes; {}; or, without a connection, copy the file from another computer to {}",
            self.mirror,
            shown(self.path)
        );
        Error::format(self.path, format!("cannot be downloaded from {}: {reason}; {advice}", self.url))
    }

    /// Downloads the file, resuming an earlier attempt, and checks it.
    fn run(&self, stop: &AtomicBool, reporter: &Reporter) -> Result<()> {
        let mut part = self.path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = self.open(&part)?;
        let io = |e| Error::io(&part, e);
        let there = file.metadata().map_err(io)?.len();
        let mut content = self.request(there)?;
        let complete = matches!(content, Content::NoMore) && self.sum.matches(&part)?;
        if !complete && !matches!(content, Content::From(..)) {
            // What is there is not the beginning of the file.
            file.set_len(0).map_err(io)?;
            content = self.request(0)?;
        }
        match content {
            Content::From(start, body) => {
                file.set_len(start).map_err(io)?;
                self.receive(&file, &part, (start, body), stop, reporter)?;
            }
            Content::NoMore if complete => {}
            Content::NoMore | Content::Other => return Err(self.failed("the server does not send the file")),
        }
        file.sync_all().map_err(io)?;
        drop(file);
        self.finish(&part)
    }

    /// Opens the incomplete file; only one process may write to it.
    fn open(&self, part: &Path) -> Result<File> {
        let io = |e| Error::io(part, e);
        if part.exists() {
            // Appending to a pipe would wait for a reader.
            open_regular(part)?;
        }
        let file = OpenOptions::new().create(true).append(true).read(true).open(part).map_err(io)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                Err(Error::format(self.path, "is being downloaded by another process: wait until it ends"))
            }
            // Some network drives have no locks.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
        }
    }

    /// Requests the bytes from `there` on.
    fn request(&self, there: u64) -> Result<Content> {
        let agent = ureq::Agent::config_builder()
            .timeout_resolve(Some(TIMEOUT))
            .timeout_connect(Some(TIMEOUT))
            .timeout_recv_response(Some(TIMEOUT))
            .timeout_per_read(Some(TIMEOUT))
            .http_status_as_error(false)
            .build()
            .new_agent();
        // Positions count the bytes of the file, so it must not be compressed on the way.
        let request = agent.get(&self.url).header("Accept-Encoding", "identity");
        let request = if there > 0 { request.header("Range", format!("bytes={there}-")) } else { request };
        let response = request.call().map_err(|e| self.failed(e))?;
        let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
        let first = range.and_then(|text| text.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        match response.status().as_u16() {
            206 if first.is_none_or(|first: u64| first == there) => {
                Ok(Content::From(there, response.into_body()))
            }
            206 => Ok(Content::Other),
            // The server ignored the range and sends the whole file.
            200 => Ok(Content::From(0, response.into_body())),
            416 => Ok(Content::NoMore),
            status => Err(self.failed(format!("the server answers {status}"))),
        }
    }

    /// Appends a response to the incomplete file.
    fn receive(
        &self,
        mut file: &File,
        part: &Path,
        (start, body): (u64, ureq::Body),
        stop: &AtomicBool,
        reporter: &Reporter,
    ) -> Result<()> {
        let io = |e| Error::io(part, e);
        let total = body.content_length().map(|rest| start.saturating_add(rest));
        let mut body = body.into_reader();
        let name = self.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        // In KiB.
        let mut bar = reporter.bar(&name, total.unwrap_or(0) >> 10);
        let (mut done, mut rate) = (start, Rate::new());
        let mut buffer = vec![0; 64 << 10];
        loop {
            if stop.load(Ordering::SeqCst) {
                return Err(Error::Interrupted);
            }
            let read = body.read(&mut buffer);
            let read = read.map_err(|e| self.failed(format!("the connection ended early: {e}")))?;
            if read == 0 {
                break;
            }
            if done > MAX_BYTES {
                return Err(self.failed(format!("it has more than {MAX_BYTES} bytes")));
            }
            file.write_all(&buffer[..read]).map_err(io)?;
            done += read as u64;
            rate.add(read);
            bar.update(done >> 10, || {
                let left = total.map_or("?".into(), |total| rate.left((total.saturating_sub(done)) as usize));
                format!("KiB  {:.1} MiB/s  {left} left", rate.per_second() / f64::from(1 << 20))
            });
        }
        if total.is_some_and(|total| done < total) {
            return Err(self.failed("the connection ended early"));
        }
        Ok(())
    }

    /// Checks the downloaded file and renames it.
    fn finish(&self, part: &Path) -> Result<()> {
        let found = self.sum.of(part)?;
        if !found.starts_with(self.sum.expected()) {
            std::fs::remove_file(part).map_err(|e| Error::io(part, e))?;
            let (name, expected) = (self.sum.name(), self.sum.expected());
            return Err(self.failed(format!("its {name} is {found}, expected {expected}")));
        }
        std::fs::rename(part, self.path).map_err(|e| Error::io(self.path, e))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::atomic::AtomicUsize;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// How a test server treats requests for ranges.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Ranges {
        Supported,
        /// Sends the whole file with status 200.
        Ignored,
        /// Sends another range than the requested one.
        Wrong,
    }

    /// A server of one file on this computer.
    pub(crate) struct Server {
        /// `http://127.0.0.1:PORT`
        pub site: String,
        /// Number of responses.
        pub answers: Arc<AtomicUsize>,
        /// The first lines of the requests.
        pub requests: Arc<Mutex<Vec<String>>>,
    }

    /// A server that sends `content` for every path. Its first response ends after half of the
    /// content if `aborts`.
    pub(crate) fn serve(content: Vec<u8>, ranges: Ranges, aborts: bool) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let site = format!("http://{}", listener.local_addr().expect("an address"));
        let (answers, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (counter, log) = (Arc::clone(&answers), Arc::clone(&requests));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(std::result::Result::ok) {
                let lines = BufReader::new(&mut stream).lines().map_while(std::result::Result::ok);
                let lines: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                log.lock().expect("a log").push(lines.first().cloned().unwrap_or_default());
                let range = lines.iter().find_map(|l| {
                    let l = l.to_lowercase();
                    l.strip_prefix("range: bytes=")?.trim_end_matches('-').parse::<usize>().ok()
                });
                let range = range.filter(|_| ranges != Ranges::Ignored);
                let first = if ranges == Ranges::Wrong { 1 } else { range.unwrap_or(0) };
                let (head, rest) = match range {
                    Some(start) if start >= content.len() => {
                        ("416 Range Not Satisfiable".to_string(), &content[..0])
                    }
                    Some(_) => (
                        format!(
                            "206 Partial Content\r\nContent-Range: bytes {first}-{}/{}",
                            content.len() - 1,
                            content.len()
                        ),
                        &content[first..],
                    ),
                    None => ("200 OK".to_string(), &content[..]),
                };
                let cut = counter.fetch_add(1, Ordering::SeqCst) == 0 && aborts;
                let sent = if cut { rest.len() / 2 } else { rest.len() };
                let head =
                    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", rest.len());
                // The client may have closed the connection already.
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&rest[..sent]));
            }
        });
        Server { site, answers, requests }
    }

    /// The SHA-256 sum of bytes in hexadecimal.
    pub(crate) fn sha256(content: &[u8]) -> &'static str {
        let sum: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        Box::leak(sum.into_boxed_str())
    }

    /// Bytes that are not periodic in any power of two.
    fn content() -> Vec<u8> {
        (0..300_007u32).map(|i| (i % 251) as u8).collect()
    }

    fn fetch(site: &str, path: &Path, sum: Sum) -> Result<bool> {
        let (stop, reporter) = (AtomicBool::new(false), Reporter::new(true));
        Download { url: format!("{site}/file"), path, sum, mirror: "use a mirror" }.ensure(&stop, &reporter)
    }

    #[test]
    fn interrupted_downloads_resume_and_complete_files_are_kept() {
        for ranges in [Ranges::Supported, Ranges::Ignored, Ranges::Wrong] {
            let folder = tempfile::tempdir().expect("a folder");
            let (path, content) = (folder.path().join("file"), content());
            let sum = Sum::Sha256(&sha256(&content)[..8]);
            let server = serve(content.clone(), ranges, true);
            let error = fetch(&server.site, &path, sum).expect_err("half of it came").to_string();
            assert!(error.contains("run the command again") && error.contains("ended early"), "{error}");
            let part = folder.path().join("file.part");
            let half = std::fs::metadata(&part).expect("the half is kept").len() as usize;
            assert!(half > 0 && half < content.len(), "{ranges:?}: {half}");
            assert!(!fetch(&server.site, &path, sum).expect("the rest comes"));
            assert_eq!(std::fs::read(&path).expect("it is there"), content, "{ranges:?}");
            assert!(!part.exists());
            assert!(fetch(&server.site, &path, sum).expect("nothing is to be done"));
            // A wrong range costs one request more.
            let answers = if ranges == Ranges::Wrong { 3 } else { 2 };
            assert_eq!(server.answers.load(Ordering::SeqCst), answers, "{ranges:?}");
        }
    }

    #[test]
    fn damaged_files_are_downloaded_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, content) = (folder.path().join("file"), content());
        let sum = Sum::Sha256(sha256(&content));
        let server = serve(content.clone(), Ranges::Supported, false);
        std::fs::write(&path, b"damaged").expect("can be written");
        fetch(&server.site, &path, sum).expect("it is replaced");
        assert_eq!(std::fs::read(&path).expect("it is there"), content);
        // An incomplete file that is longer than the whole one, and one with other content.
        std::fs::remove_file(&path).expect("it is there");
        let part = folder.path().join("file.part");
        std::fs::write(&part, vec![0; content.len() + 5]).expect("can be written");
        fetch(&server.site, &path, sum).expect("it starts over");
        assert_eq!(std::fs::read(&path).expect("it is there"), content);
        std::fs::remove_file(&path).expect("it is there");
        std::fs::write(&part, b"damaged").expect("can be written");
        let error = fetch(&server.site, &path, sum).expect_err("the sum is another").to_string();
        assert!(error.contains("SHA-256") && !part.exists() && !path.exists(), "{error}");
    }

    #[test]
    fn without_a_connection_the_error_says_which_file_to_place_where() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        // A port that nothing listens on.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let site = format!("http://127.0.0.1:{port}");
        let error = fetch(&site, &path, Sum::Md5("00")).expect_err("no server").to_string();
        assert!(error.contains(&format!("{site}/file")), "{error}");
        assert!(error.contains(&format!("to {}", path.display())), "{error}");
    }
}
