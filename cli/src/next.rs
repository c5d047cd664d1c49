//! The commands to run after a training, which work as printed, and sample images for them.

use std::path::{Path, PathBuf};

use incept::data::Dataset;
use incept::low_level::output::write_atomically;
use incept::runs::RunFolder;
use incept::{Error, Result};

use super::raster::{png, raster};
use super::report::shown;

/// Number of sample images that are written as files.
const SAMPLES: usize = 6;

/// A path as an argument for a shell, in quotes if it has special characters.
pub(crate) fn argument(path: &Path) -> String {
    let text = shown(path);
    // Windows separates folders by what escapes in other shells.
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c) || cfg!(windows) && c == '\\';
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else if cfg!(windows) {
        format!("\"{text}\"")
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// The command that resumes a run.
pub(crate) fn resume(folder: &RunFolder) -> String {
    format!("incept train --resume {}", argument(folder.path()))
}

/// The commands that use a complete run. Validation images that are not files of their own are
/// written to the run's folder.
pub(crate) fn after(folder: &RunFolder, validation: &dyn Dataset) -> Result<Vec<String>> {
    if validation.is_empty() {
        return Ok(Vec::new());
    }
    let run = argument(folder.path());
    let file = PathBuf::from(validation.name(0));
    let images = if file.is_file() {
        file
    } else {
        let samples = folder.path().join("samples");
        write_samples(validation, &samples)?;
        samples
    };
    Ok(vec![
        format!("incept eval {run}"),
        format!("incept classify {run} {}", argument(&images)),
        format!("incept report {run}"),
    ])
}

/// Writes evenly spaced images as files to classify, named after their class.
pub(crate) fn write_samples(set: &dyn Dataset, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    for i in 0..SAMPLES.min(set.len()) {
        let index = i * set.len() / SAMPLES.min(set.len());
        let name = set.classes().get(set.label(index) as usize).map_or("", String::as_str);
        // Names of classes may have characters that file names must not have.
        let class: String = name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
        let file = folder.join(format!("{class}-{index:03}.png"));
        let png = png(&raster(&set.image(index)?)).map_err(|e| Error::format(&file, e.to_string()))?;
        write_atomically(&file, &png)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn shells_read_quoted_paths_as_one_argument() {
        for path in ["runs/0001-a", "my photos/a b", "it's", "$HOME;ls", ""] {
            let script = format!("printf %s {}", argument(Path::new(path)));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("a shell");
            assert_eq!(String::from_utf8_lossy(&output.stdout), path);
        }
        assert_eq!(argument(Path::new("runs/0001-a")), "runs/0001-a");
    }
}
