//! `incept data fetch`

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use incept::Error;
use incept::low_level::output::write_atomically;
use incept::low_level::untrusted::{open_regular, read_up_to};
use md5::{Digest, Md5};
use serde::Serialize;

use super::interrupt::interruptible;
use super::report::{Rate, Reporter, note, shown};
use super::{Outcome, Result};

/// Download a well-known data set to a folder for `incept train`.
///
/// Every file is checked against its published MD5 sum. Interrupted downloads resume when the same
/// command is run again, and complete files are not downloaded again.
#[derive(Args, Debug)]
pub(crate) struct Fetch {
    /// Data set.
    set: Set,
    /// Folder to write to [default: the data set's name].
    #[arg(short = 'o', long = "output", alias = "out", value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Base URL of a mirror to download from; file names are appended to it.
    #[arg(long, value_name = "URL")]
    from: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Set {
    /// 70,000 handwritten digits, 28 x 28, grayscale; 11 MB.
    Mnist,
    /// 60,000 photographs of ten classes, 32 x 32, color; 170 MB.
    Cifar10,
    /// 70,000 articles of clothing, 28 x 28, grayscale; 30 MB.
    FashionMnist,
}

/// Timeout of each network operation.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum size of a file in bytes, packed or unpacked; the largest of these data sets has 162 MiB.
const MAX_UNPACKED_BYTES: u64 = 512 << 20;

/// A file's name and its MD5 sum in hexadecimal.
type Listed = (&'static str, &'static str);

const MNIST: [Listed; 4] = [
    ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
    ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
    ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
];
const FASHION: [Listed; 4] = [
    ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
    ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
    ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
];
const CIFAR10: [Listed; 1] = [("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")];

impl Set {
    fn name(self) -> &'static str {
        match self {
            Self::Mnist => "mnist",
            Self::Cifar10 => "cifar10",
            Self::FashionMnist => "fashion-mnist",
        }
    }

    fn site(self) -> &'static str {
        match self {
            Self::Mnist => "https://ossci-datasets.s3.amazonaws.com/mnist",
            Self::Cifar10 => "https://www.cs.toronto.edu/~kriz",
            Self::FashionMnist => "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        }
    }

    fn files(self) -> &'static [Listed] {
        match self {
            Self::Mnist => &MNIST,
            Self::Cifar10 => &CIFAR10,
            Self::FashionMnist => &FASHION,
        }
    }
}

#[derive(Serialize)]
struct FetchResult<'a> {
    set: &'a str,
    folder: &'a Path,
    files: Vec<PathBuf>,
}

impl Fetch {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let stop = interruptible()?;
        let folder = self.out.clone().unwrap_or_else(|| self.set.name().into());
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let site = self.from.as_deref().unwrap_or(self.set.site()).trim_end_matches('/');
        let mut files = match download(self.set.files(), site, &folder, &stop, reporter) {
            Err(Error::Interrupted) => {
                note("interrupted; run the same command again to resume");
                return Ok(Outcome::Interrupted);
            }
            downloaded => downloaded?,
        };
        if self.set == Set::Cifar10 {
            files = unpack(&files[0], &folder)?;
        }
        reporter.line(&format!("{}: incept train {}", shown(&folder), folder.display()))?;
        reporter.event(&FetchResult { set: self.set.name(), folder: &folder, files })?;
        Ok(Outcome::Done)
    }
}

/// Downloads the files that are missing or damaged; returns the paths of all files.
fn download(
    files: &[Listed],
    site: &str,
    folder: &Path,
    stop: &AtomicBool,
    reporter: &Reporter,
) -> incept::Result<Vec<PathBuf>> {
    let one = |(name, sum): &Listed| {
        let path = folder.join(name);
        if path.is_file() && checksum(&path)? == *sum {
            note(&format!("{}: already complete", shown(&path)));
        } else {
            Download { url: format!("{site}/{name}"), path: &path, sum }.run(stop, reporter)?;
        }
        Ok(path)
    };
    files.iter().map(one).collect()
}

struct Download<'a> {
    url: String,
    path: &'a Path,
    sum: &'a str,
}

impl Download<'_> {
    fn failed(&self, reason: impl std::fmt::Display) -> Error {
        let advice = "check the connection and run the command again, use a mirror with --from, or place the file there by hand";
        Error::format(self.path, format!("cannot be downloaded from {}: {reason}; {advice}", self.url))
    }

    /// Downloads the file, resuming an earlier attempt, and checks it.
    fn run(&self, stop: &AtomicBool, reporter: &Reporter) -> incept::Result<()> {
        let mut part = self.path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let io = |e| Error::io(&part, e);
        if part.exists() {
            // Appending to a pipe would wait for a reader.
            open_regular(&part)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(&part).map_err(io)?;
        let there = file.metadata().map_err(io)?.len();
        let agent = ureq::Agent::config_builder()
            .timeout_resolve(Some(TIMEOUT))
            .timeout_connect(Some(TIMEOUT))
            .timeout_per_read(Some(TIMEOUT))
            .http_status_as_error(false)
            .build()
            .new_agent();
        let request = agent.get(&self.url);
        let request = if there > 0 { request.header("Range", format!("bytes={there}-")) } else { request };
        let response = request.call().map_err(|e| self.failed(e))?;
        let start = match response.status().as_u16() {
            206 => there,
            // The server ignored the range and sends the whole file.
            200 => {
                file.set_len(0).map_err(io)?;
                0
            }
            // Range not satisfiable: the file is complete.
            416 => {
                drop(file);
                return self.finish(&part);
            }
            status => return Err(self.failed(format!("the server answers {status}"))),
        };
        let length = response.headers().get("content-length").and_then(|v| v.to_str().ok());
        let total = length.and_then(|v| v.parse::<u64>().ok()).map(|rest| start + rest);
        let mut body = response.into_body().into_reader();
        let name = self.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        // In KiB.
        let mut bar = reporter.bar(&name, total.unwrap_or(0) >> 10);
        let (mut done, mut rate) = (start, Rate::new());
        let mut buffer = vec![0; 64 << 10];
        loop {
            if stop.load(Ordering::SeqCst) {
                return Err(Error::Interrupted);
            }
            let read = body.read(&mut buffer).map_err(|e| self.failed(e))?;
            if read == 0 {
                break;
            }
            if done > MAX_UNPACKED_BYTES {
                return Err(self.failed(format!("it has more than {MAX_UNPACKED_BYTES} bytes")));
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
        file.sync_all().map_err(io)?;
        drop(file);
        self.finish(&part)
    }

    /// Checks the downloaded file and renames it.
    fn finish(&self, part: &Path) -> incept::Result<()> {
        let found = checksum(part)?;
        if found != self.sum {
            std::fs::remove_file(part).map_err(|e| Error::io(part, e))?;
            let reason = format!("its MD5 sum is {found}, expected {}", self.sum);
            return Err(self.failed(reason));
        }
        std::fs::rename(part, self.path).map_err(|e| Error::io(self.path, e))
    }
}

/// The MD5 sum of a file in hexadecimal, as these data sets publish it: it detects damage, not
/// forgery.
fn checksum(path: &Path) -> incept::Result<String> {
    let io = |e| Error::io(path, e);
    let (mut file, _) = open_regular(path)?;
    let mut hash = Md5::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(io)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Unpacks the .bin and .txt files of an archive into a folder, without the archive's subfolders.
fn unpack(archive: &Path, folder: &Path) -> incept::Result<Vec<PathBuf>> {
    let damaged = |e: std::io::Error| Error::format(archive, format!("cannot be unpacked: {e}"));
    let (file, _) = open_regular(archive)?;
    let mut files = Vec::new();
    for entry in tar::Archive::new(flate2::read::GzDecoder::new(file)).entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let inner = entry.path().map_err(damaged)?.into_owned();
        let wanted = inner.extension().is_some_and(|e| e == "bin" || e == "txt");
        let Some(name) = inner.file_name().filter(|_| wanted && entry.header().entry_type().is_file()) else {
            continue;
        };
        let path = folder.join(name);
        let content = read_up_to(&mut entry, MAX_UNPACKED_BYTES).map_err(damaged)?;
        let content =
            content.map_err(|reason| Error::format(archive, format!("{}: {reason}", inner.display())))?;
        write_atomically(&path, &content)?;
        files.push(path);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A server of one file that aborts its first response in the middle and supports ranges; and
    /// its number of responses.
    fn serve(content: Vec<u8>) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let answers = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&answers);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(std::result::Result::ok) {
                let lines = BufReader::new(&mut stream).lines().map_while(std::result::Result::ok);
                let lines: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let range = lines.iter().find_map(|l| {
                    l.to_lowercase()
                        .strip_prefix("range: bytes=")?
                        .trim_end_matches('-')
                        .parse::<usize>()
                        .ok()
                });
                let rest = &content[range.unwrap_or(0)..];
                let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
                let sent =
                    if counter.fetch_add(1, Ordering::SeqCst) == 0 { rest.len() / 2 } else { rest.len() };
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", rest.len());
                stream
                    .write_all(head.as_bytes())
                    .and_then(|()| stream.write_all(&rest[..sent]))
                    .expect("the client listens");
            }
        });
        (address, answers)
    }

    /// `data/two.bin` and `data/notes.html` in a tar.gz.
    fn archive() -> Vec<u8> {
        let mut tar =
            tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none()));
        for (name, content) in [("data/two.bin", vec![2u8; 100_000]), ("data/notes.html", vec![b'x'; 10])] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, content.as_slice()).expect("fits");
        }
        tar.into_inner().and_then(flate2::write::GzEncoder::finish).expect("an archive")
    }

    #[test]
    fn interrupted_downloads_resume_and_complete_files_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let content = archive();
        let sum: String = Md5::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        let (site, answers) = serve(content.clone());
        let listed: [Listed; 1] = [("two.tar.gz", Box::leak(sum.into_boxed_str()))];
        let (stop, reporter) = (AtomicBool::new(false), Reporter::new(true));
        let fetch = || download(&listed, &site, folder.path(), &stop, &reporter);
        let error = fetch().expect_err("half of it came").to_string();
        assert!(error.contains("run the command again"), "{error}");
        let part = folder.path().join("two.tar.gz.part");
        let half = std::fs::metadata(&part).expect("the half is kept").len() as usize;
        assert!(half > 0 && half < content.len());
        let files = fetch().expect("the rest comes");
        assert_eq!(std::fs::read(&files[0]).expect("it is there"), content);
        assert!(!part.exists());
        fetch().expect("nothing is to be done");
        assert_eq!(answers.load(Ordering::SeqCst), 2);
        let unpacked = unpack(&files[0], folder.path()).expect("an archive");
        assert_eq!(unpacked, [folder.path().join("two.bin")]);
        assert_eq!(std::fs::read(&unpacked[0]).expect("unpacked"), vec![2; 100_000]);
    }
}
