//! Files of SPIR-V, as `incept kernels --write DIR --language spirv` writes them.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::driver::Driver;
use crate::matrix::{self, Device, Figures, Row};
use crate::{Places, Result};

/// Compile files of SPIR-V for every family, and fail if one breaks a rule.
#[derive(Args)]
pub struct Files {
    /// Folder with .spv files
    folder: PathBuf,
    #[command(flatten)]
    places: Places,
}

/// Compile files for the device of this process, and print JSON.
#[derive(Args)]
pub struct CompileFiles {
    folder: PathBuf,
    family: String,
}

impl Files {
    /// Runs it.
    ///
    /// # Errors
    /// Whatever failed, for printing.
    pub fn run(&self) -> Result<()> {
        let folder = self.folder.to_str().ok_or("the folder's name is not Unicode")?;
        let arguments = ["compile-files".to_string(), folder.to_string()];
        let lab = self.places.lab();
        let columns = matrix::columns(&lab, self.places.families()?, &arguments, self.places.jobs());
        for line in matrix::unavailable(&lab, &columns) {
            println!("not available: {line}");
        }
        for column in &columns {
            if let Ok((device, rows)) = &column.result {
                let family = column.family;
                println!("{} ({}): {} files, {}", family.name, family.class, rows.len(), device.driver);
            }
        }
        let broken = matrix::broken_rules(&columns);
        broken.iter().for_each(|line| println!("broken rule: {line}"));
        matrix::checked(&columns, &broken)
    }
}

impl CompileFiles {
    /// Runs it.
    ///
    /// # Errors
    /// Whatever failed, for printing.
    pub fn run(&self) -> Result<()> {
        let driver = Driver::open(0).map_err(|e| format!("{}: {e}", self.family))?;
        println!("{}", serde_json::to_string(&Device::of(&driver))?);
        let mut paths = std::fs::read_dir(&self.folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>())
            .map_err(|e| format!("{}: {e}", self.folder.display()))?;
        paths.retain(|path| path.extension().is_some_and(|e| e == "spv"));
        paths.sort();
        for path in &paths {
            let row = Row {
                place: String::new(),
                limits: String::new(),
                implementation: String::new(),
                kernel: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
                figures: compiled(&driver, path).map_err(|e| e.to_string()),
            };
            println!("{}", serde_json::to_string(&row)?);
        }
        Ok(())
    }
}

fn compiled(driver: &Driver, path: &Path) -> Result<Figures> {
    let words = words(&std::fs::read(path)?)?;
    let entry = entry_point(&words).ok_or("the file has no compute entry point")?;
    Ok(Figures::of(&driver.compile(&words, &entry)?))
}

/// The words of a module in this machine's byte order.
fn words(bytes: &[u8]) -> Result<Vec<u32>> {
    const MAGIC: u32 = 0x0723_0203;
    let (chunks, rest) = bytes.as_chunks::<4>();
    let words: Vec<u32> = chunks.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    if !rest.is_empty() || words.first() != Some(&MAGIC) {
        return Err("the file is not little-endian SPIR-V".into());
    }
    Ok(words)
}

/// The name of the first compute entry point.
fn entry_point(words: &[u32]) -> Option<String> {
    const HEADER: usize = 5;
    const ENTRY_POINT: u32 = 15;
    const COMPUTE: u32 = 5;
    let mut rest = words.get(HEADER..)?;
    while let [first, ..] = rest {
        let length = usize::try_from(first >> 16).ok().filter(|length| *length > 0)?;
        let instruction = rest.get(..length)?;
        if let [_, model, _, name @ ..] = instruction
            && first & 0xffff == ENTRY_POINT
            && *model == COMPUTE
        {
            let bytes = name.iter().flat_map(|word| word.to_le_bytes()).take_while(|byte| *byte != 0);
            return String::from_utf8(bytes.collect()).ok();
        }
        rest = &rest[length..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_points_are_found_in_modules() {
        let name = u32::from_le_bytes(*b"main");
        let header = [0x0723_0203, 0x0001_0300, 0, 8, 0];
        // A capability, a fragment entry point, a compute entry point.
        let rest = [2 << 16 | 17, 1, 5 << 16 | 15, 4, 1, 7, 0, 5 << 16 | 15, 5, 2, name, 0];
        let module = [&header[..], &rest].concat();
        assert_eq!(entry_point(&module).as_deref(), Some("main"));
        assert_eq!(entry_point(&module[..9]), None);
        // An instruction of no words would never end, and one may be longer than the module.
        assert_eq!(entry_point(&[&header[..], &[17]].concat()), None);
        assert_eq!(entry_point(&[&header[..], &[9 << 16 | 15, 5, 2]].concat()), None);
    }

    #[test]
    fn other_files_are_rejected() {
        assert!(words(b"abc").is_err() && words(b"").is_err() && words(&[1, 2, 3, 4]).is_err());
        assert!(words(&0x0723_0203_u32.to_le_bytes()).is_ok());
    }
}
