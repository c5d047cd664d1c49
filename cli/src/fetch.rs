//! `incept data fetch`

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};
use incept::Error;
use incept::low_level::output::write_atomically;
use incept::low_level::untrusted::{open_regular, read_up_to};
use serde::Serialize;

use super::download::{Download, MAX_BYTES, Sum};
use super::interrupt::interruptible;
use super::report::{Reporter, note, shown};
use super::{Outcome, Result};

/// Download a well-known data set to a folder for `incept train`.
///
/// Every file is checked against its published MD5 sum. Interrupted downloads resume when the same
/// command is run again, and complete files are not downloaded again. Without a connection, copy
/// the files into the folder by hand.
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
    data: &'a str,
    output: &'a Path,
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
        reporter.event(&FetchResult { data: self.set.name(), output: &folder, files })?;
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
        let url = format!("{site}/{name}");
        let mirror = "use a mirror with --from";
        let file = Download { url, path: &path, sum: Sum::Md5(sum), mirror };
        if file.ensure(stop, reporter)? {
            note(&format!("{}: already complete", shown(&path)));
        }
        Ok(path)
    };
    files.iter().map(one).collect()
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
        let content = read_up_to(&mut entry, MAX_BYTES).map_err(damaged)?;
        let content =
            content.map_err(|reason| Error::format(archive, format!("{}: {reason}", inner.display())))?;
        write_atomically(&path, &content)?;
        files.push(path);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use md5::{Digest, Md5};

    use super::*;
    use crate::download::tests::{Ranges, serve};

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
    fn archives_are_downloaded_and_unpacked() {
        let folder = tempfile::tempdir().expect("a folder");
        let content = archive();
        let sum: String = Md5::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        let server = serve(content, Ranges::Supported, false);
        let listed: [Listed; 1] = [("two.tar.gz", Box::leak(sum.into_boxed_str()))];
        let (stop, reporter) = (AtomicBool::new(false), Reporter::new(true));
        let files = download(&listed, &server.site, folder.path(), &stop, &reporter).expect("it comes");
        assert_eq!(server.requests.lock().expect("a log")[0], "GET /two.tar.gz HTTP/1.1");
        let unpacked = unpack(&files[0], folder.path()).expect("an archive");
        assert_eq!(unpacked, [folder.path().join("two.bin")]);
        assert_eq!(std::fs::read(&unpacked[0]).expect("unpacked"), vec![2; 100_000]);
    }
}
