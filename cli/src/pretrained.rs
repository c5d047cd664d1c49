//! Published weights by name: downloaded once to the cache, checked, and imported when they are
//! used.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use incept::checkpoint::{Checkpoint, ImportOptions};
use incept::formats::Foreign;
use incept::low_level::output::cache_folder;
use incept::runs::RunFolder;
use incept::{Error, Result};

use super::download::{Download, Sum};
use super::report::{Reporter, note, shown};

/// Environment variable for the base URL of a mirror of published weights.
const MIRROR: &str = "INCEPT_WEIGHTS_URL";

/// A file of published weights.
#[derive(Clone, Copy, Debug)]
struct Published {
    /// Name of the file, in the cache too.
    file: &'static str,
    /// URL of the folder that it is in.
    site: &'static str,
    sum: Sum,
    /// What to say before the download.
    about: &'static str,
}

/// torchvision's `GoogLeNet_Weights.IMAGENET1K_V1`. The file's name has the first digits of its
/// SHA-256 sum, and torchvision checks no more of it either.
const IMAGENET: Published = Published {
    file: "googlenet-1378be20.pth",
    site: "https://download.pytorch.org/models",
    sum: Sum::Sha256("1378be20"),
    about: "torchvision's ImageNet weights (50 MiB, BSD-3-Clause license)",
};

/// The name of the ImageNet weights, in place of a checkpoint.
pub(crate) const NAME: &str = "imagenet";

/// Whether a path means the ImageNet weights: unless a file or a run's folder has that name. A data
/// set of that name is not meant where weights are expected.
pub(crate) fn is_imagenet(path: &Path) -> bool {
    path == Path::new(NAME) && !path.is_file() && RunFolder::open(path).is_err()
}

/// The file of the ImageNet weights; it is downloaded if it is not in the cache.
///
/// # Errors
/// [`Error::Format`] that says which file to place where, if it cannot be downloaded.
pub(crate) fn file() -> Result<PathBuf> {
    let site = std::env::var(MIRROR).ok().filter(|site| !site.is_empty());
    IMAGENET.file_in(&cache_folder()?.join("weights"), site.as_deref())
}

/// The ImageNet weights as a checkpoint with torchvision's preprocessing.
///
/// # Errors
/// As [`file`].
pub(crate) fn load() -> Result<Checkpoint> {
    imported(&file()?)
}

fn imported(path: &Path) -> Result<Checkpoint> {
    let (checkpoint, _) = Checkpoint::import(path, &Foreign::read(path)?, &ImportOptions::default())?;
    Ok(checkpoint)
}

/// Prints that the auxiliary heads of the ImageNet weights are of no use, if `path` means these.
pub(crate) fn note_untrained_heads(path: &Path) {
    if is_imagenet(path) {
        note(
            "note: the auxiliary heads of torchvision's ImageNet weights were never trained: only the main head's results are meaningful",
        );
    }
}

impl Published {
    /// The file in a folder, downloaded if it is missing there, and checked.
    fn file_in(&self, folder: &Path, site: Option<&str>) -> Result<PathBuf> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let path = folder.join(self.file);
        if !path.is_file() {
            note(&format!("downloading {} to {}", self.about, shown(&path)));
        }
        let download = Download {
            url: format!("{}/{}", site.unwrap_or(self.site).trim_end_matches('/'), self.file),
            path: &path,
            sum: self.sum,
            mirror: "set INCEPT_WEIGHTS_URL to the base URL of a mirror",
        };
        // Ctrl-C ends the program: what is here already is kept.
        download.ensure(&AtomicBool::new(false), &Reporter::new(false))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use incept::checkpoint::INCLUDED;
    use incept::data::{Fit, Image};
    use incept::tensor::HostTensor;

    use super::*;
    use crate::download::tests::{Ranges, serve, sha256};

    /// A safetensors file with torchvision's names for 1000 classes, as published weights are.
    fn published() -> Vec<u8> {
        let included = Checkpoint::from_bytes(Path::new("included"), INCLUDED).expect("the weights");
        let mut tensors = included.state.parameters.clone();
        tensors.extend(included.state.state.into_iter().filter(|(name, _)| name.contains("running_")));
        for (name, tensor) in &mut tensors {
            if ["fc.", "aux1.fc2.", "aux2.fc2."].iter().any(|layer| name.starts_with(layer)) {
                tensor.dims[0] = 1000;
                tensor.data = vec![0.125; tensor.dims.iter().product()];
            }
        }
        let bytes = |tensor: &HostTensor| -> Vec<u8> {
            tensor.data.iter().flat_map(|value| value.to_le_bytes()).collect()
        };
        let data: Vec<(String, Vec<usize>, Vec<u8>)> =
            tensors.iter().map(|(name, t)| (name.clone(), t.dims.clone(), bytes(t))).collect();
        let views = data.iter().map(|(name, dims, bytes)| {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, dims.clone(), bytes);
            (name.clone(), view.expect("a tensor"))
        });
        safetensors::serialize(views, None).expect("a file")
    }

    #[test]
    fn published_weights_are_downloaded_once_and_have_their_preprocessing_and_classes() {
        let folder = tempfile::tempdir().expect("a folder");
        let content = published();
        let server = serve(content.clone(), Ranges::Supported, true);
        let sum = Sum::Sha256(&sha256(&content)[..8]);
        let published = Published { file: "tiny-1378be20.pth", site: "", sum, about: "test weights" };
        let cache = folder.path().join("cache/weights");
        let site = format!("{}/", server.site);
        let error = published.file_in(&cache, Some(&site)).expect_err("half of it came").to_string();
        assert!(error.contains(MIRROR) && error.contains("tiny-1378be20.pth"), "{error}");
        for _ in 0..2 {
            let path = published.file_in(&cache, Some(&site)).expect("it is complete");
            assert_eq!(std::fs::read(&path).expect("it is there"), content);
        }
        assert_eq!(server.answers.load(Ordering::SeqCst), 2);
        assert_eq!(server.requests.lock().expect("a log")[0], "GET /tiny-1378be20.pth HTTP/1.1");
        let Checkpoint { state, metadata } =
            imported(&cache.join("tiny-1378be20.pth")).expect("weights of torchvision's network");
        assert_eq!((metadata.network.input, metadata.network.classes), (224, 1000));
        assert_eq!((metadata.classes[0].as_str(), metadata.classes.len()), ("tench", 1000));
        // `Resize(256)`, `CenterCrop(224)`, and `transform_input`, which undoes ImageNet's mean and
        // standard deviation to [-1, 1].
        let preprocessing = &metadata.preprocessing;
        assert_eq!((preprocessing.mean, preprocessing.std), ([0.5; 3], [0.5; 3]));
        assert_eq!((preprocessing.crop_pct, preprocessing.fit), (0.875, Fit::Crop));
        let white = Image { width: 300, height: 256, channels: 3, pixels: vec![255; 300 * 256 * 3] };
        assert!(preprocessing.apply(&white).iter().all(|value| (value - 1.0).abs() < 1e-6));
        assert_eq!(state.parameters["fc.weight"].dims[0], 1000);
    }

    #[test]
    fn folders_of_images_do_not_hide_the_weights() {
        assert!(is_imagenet(Path::new("imagenet")));
        assert!(!is_imagenet(Path::new("./imagenet")) && !is_imagenet(Path::new("included")));
    }
}
