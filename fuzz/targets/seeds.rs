//! Writes a corpus to begin with: `cargo run --bin seeds` makes `corpus/KIND/` for every fuzz
//! target, from the repository's fixtures.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for kind in incept_fuzz::kinds::KINDS {
        let folder = corpus.join(kind.name);
        std::fs::create_dir_all(&folder)?;
        let seeds = (kind.seeds)();
        for (i, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{i:03}")), seed)?;
        }
        println!("{}: {} files", kind.name, seeds.len());
    }
    Ok(())
}
