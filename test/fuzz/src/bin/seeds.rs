//! Writes what each target begins with: `seeds DIRECTORY` makes `DIRECTORY/TARGET/NUMBER`.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let directory = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("corpus"), PathBuf::from);
    for (entry, seeds) in fuzz::seeds::corpora() {
        let folder = directory.join(entry);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:04}")), seed)?;
        }
    }
    Ok(())
}
