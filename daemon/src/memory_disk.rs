//! A disk in memory that forgets on a crash what a real one may forget. For tests alone.
//!
//! ```text
//! what the program sees       files, names             read, written
//! what a crash cannot take    files', names'           copied from above by SyncFile, SyncDirectory, Replace
//! crash(seed)                 each 512-byte sector, length and name that differs: either side, by the seed
//! ```
//! Owns the model. It must never be kinder than a disk: a name is safe only after its directory was synced,
//! bytes only after their file was, and a sector that was written twice may come back as any of the two.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use twinlog_io::{DirectoryEntry, Disk, FileFacts, Step, StepOutput, SystemError};

const SECTOR_BYTES: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Directory,
    File(usize),
}

#[derive(Clone, Debug, Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
}

/// See the file's header.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    contents: Vec<Content>,
    names: BTreeMap<PathBuf, Name>,
    durable_names: BTreeMap<PathBuf, Name>,
    /// Steps that still succeed; then every one fails until the crash.
    steps_left: Option<usize>,
    /// Steps run so far.
    pub steps: usize,
}

impl MemoryDisk {
    /// So many more steps succeed.
    pub fn die_after(&mut self, steps: usize) {
        self.steps_left = Some(steps);
    }

    /// Power is lost and comes back.
    pub fn crash(&mut self, seed: u64) {
        let mut random = Random(seed);
        let paths: BTreeSet<PathBuf> = self.names.keys().chain(self.durable_names.keys()).cloned().collect();
        let mut names = BTreeMap::new();
        for path in paths {
            let (seen, durable) = (self.names.get(&path), self.durable_names.get(&path));
            let kept = if seen == durable || random.coin() { durable } else { seen };
            let reachable = path.parent().is_none_or(|parent| is_root(parent) || names.contains_key(parent));
            if let Some(kept) = kept.filter(|_| reachable) {
                names.insert(path, *kept);
            }
        }
        for content in &mut self.contents {
            if content.seen != content.durable {
                let length = if random.coin() { content.seen.len() } else { content.durable.len() };
                let mut torn = vec![0; length];
                for (index, sector) in torn.chunks_mut(SECTOR_BYTES).enumerate() {
                    let from = if random.coin() { &content.seen } else { &content.durable };
                    let start = (index * SECTOR_BYTES).min(from.len());
                    let end = (start + sector.len()).min(from.len());
                    sector[..end - start].copy_from_slice(&from[start..end]);
                }
                content.seen = torn.clone();
                content.durable = torn;
            }
        }
        self.durable_names = names.clone();
        self.names = names;
        self.steps_left = None;
    }

    /// Everything so far is durable.
    pub fn settle(&mut self) {
        self.durable_names = self.names.clone();
        self.contents.iter_mut().for_each(|content| content.durable = content.seen.clone());
    }

    /// A file's bytes, if it is there.
    pub fn file(&self, path: &Path) -> Option<Vec<u8>> {
        match self.names.get(path) {
            Some(Name::File(index)) => Some(self.contents[*index].seen.clone()),
            _ => None,
        }
    }

    /// Puts durable bytes into a file, as hands and broken disks do.
    pub fn plant(&mut self, path: &Path, bytes: &[u8]) {
        path.ancestors().skip(1).filter(|parent| !is_root(parent)).for_each(|parent| {
            self.names.insert(parent.to_path_buf(), Name::Directory);
        });
        let index = self.create(path).expect("the directory was made");
        self.contents[index].seen = bytes.to_vec();
        self.settle();
    }

    /// Paths of all files, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        let files = self.names.iter().filter(|(_, name)| matches!(name, Name::File(_)));
        files.map(|(path, _)| path.clone()).collect()
    }

    fn find(&self, path: &Path) -> Result<usize, SystemError> {
        match self.names.get(path) {
            Some(Name::File(index)) => Ok(*index),
            _ => Err(SystemError::NOT_FOUND),
        }
    }

    fn create(&mut self, path: &Path) -> Result<usize, SystemError> {
        if let Ok(index) = self.find(path) {
            return Ok(index);
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        if !is_root(parent) && self.names.get(parent) != Some(&Name::Directory) {
            return Err(SystemError::NOT_FOUND);
        }
        self.contents.push(Content::default());
        let index = self.contents.len() - 1;
        self.names.insert(path.to_path_buf(), Name::File(index));
        Ok(index)
    }

    fn sync_names(&mut self, directory: &Path) {
        let inside = |path: &Path| path.parent() == Some(directory);
        self.durable_names.retain(|path, _| !inside(path));
        let seen = self.names.iter().filter(|(path, _)| inside(path));
        self.durable_names.extend(seen.map(|(path, name)| (path.clone(), *name)));
    }

    fn list(&self, path: &Path) -> Result<StepOutput, SystemError> {
        if !is_root(path) && self.names.get(path) != Some(&Name::Directory) {
            return Err(SystemError::NOT_FOUND);
        }
        let inside = self.names.iter().filter(|(child, _)| child.parent() == Some(path));
        let entries = inside.map(|(child, name)| DirectoryEntry {
            name: child.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            directory: *name == Name::Directory,
            length: self.file(child).map_or(0, |bytes| bytes.len() as u64),
        });
        Ok(StepOutput::Listed(entries.collect()))
    }

    fn copy(&mut self, from: &Path, at: usize, length: usize, to: &Path) -> Result<StepOutput, SystemError> {
        let seen = &self.contents[self.find(from)?].seen;
        let start = at.min(seen.len());
        let end = (start + length).min(seen.len());
        let bytes = seen[start..end].to_vec();
        let index = self.create(to)?;
        self.contents[index].seen = bytes;
        Ok(StepOutput::Copied((end - start) as u64))
    }

    fn stat(&self, path: &Path) -> StepOutput {
        let (directory, length) = match self.names.get(path) {
            None => return StepOutput::Missing,
            Some(Name::Directory) => (true, 0),
            Some(Name::File(index)) => (false, self.contents[*index].seen.len() as u64),
        };
        StepOutput::Facts(FileFacts { directory, length, allocated_bytes: length, modified_ms: 0 })
    }

    fn step(&mut self, step: &Step) -> Result<StepOutput, SystemError> {
        match step {
            Step::MakeDirectory { path } => {
                for directory in path.ancestors().filter(|path| !is_root(path)) {
                    self.names.entry(directory.to_path_buf()).or_insert(Name::Directory);
                }
            }
            Step::List { path } => return self.list(path),
            Step::Allocate { path, length } => {
                let index = self.find(path)?;
                let length = self.contents[index].seen.len().max(*length as usize);
                self.contents[index].seen.resize(length, 0);
            }
            Step::Truncate { path, length } => {
                let index = self.find(path)?;
                self.contents[index].seen.resize(*length as usize, 0);
            }
            Step::WriteAt { path, position, bytes, create } => {
                let index = if *create { self.create(path)? } else { self.find(path)? };
                self.write(index, *position as usize, bytes);
            }
            Step::Append { path, bytes } => {
                let index = self.create(path)?;
                self.write(index, self.contents[index].seen.len(), bytes);
            }
            Step::ReadAt { path, position, length } => {
                let seen = &self.contents[self.find(path)?].seen;
                let start = (*position as usize).min(seen.len());
                let end = (start + *length as usize).min(seen.len());
                return Ok(StepOutput::Bytes(seen[start..end].to_vec()));
            }
            Step::Replace { path, bytes } => {
                self.names.remove(path);
                let index = self.create(path)?;
                self.contents[index] = Content { seen: bytes.clone(), durable: bytes.clone() };
                self.sync_names(path.parent().unwrap_or(Path::new("")));
            }
            Step::SyncFile { path } => {
                let index = self.find(path)?;
                self.contents[index].durable = self.contents[index].seen.clone();
            }
            Step::SyncDirectory { path } => {
                self.list(path)?;
                self.sync_names(path);
            }
            Step::SyncFileSystem { .. } => self.settle(),
            Step::Remove { path } => {
                let removed = self.names.remove(path);
                return Ok(if removed.is_some() { StepOutput::Done } else { StepOutput::Missing });
            }
            Step::RemoveDirectory { path } => self.names.retain(|other, _| !other.starts_with(path)),
            Step::CopyRange { from, from_position, length, to } => {
                return self.copy(from, *from_position as usize, *length as usize, to);
            }
            Step::Stat { path } => return Ok(self.stat(path)),
            Step::Open { .. } | Step::Rename { .. } | Step::Space { .. } => return Err(SystemError::INVALID),
        }
        Ok(StepOutput::Done)
    }

    fn write(&mut self, index: usize, position: usize, bytes: &[u8]) {
        let seen = &mut self.contents[index].seen;
        if seen.len() < position + bytes.len() {
            seen.resize(position + bytes.len(), 0);
        }
        seen[position..position + bytes.len()].copy_from_slice(bytes);
    }
}

impl Disk for MemoryDisk {
    fn run(&mut self, step: &Step) -> Result<StepOutput, SystemError> {
        match &mut self.steps_left {
            Some(0) => return Err(SystemError::INPUT_OUTPUT),
            Some(left) => *left -= 1,
            None => {}
        }
        self.steps += 1;
        self.step(step)
    }
}

fn is_root(path: &Path) -> bool {
    path == Path::new("/") || path == Path::new("")
}

/// ref: splitmix64
struct Random(u64);

impl Random {
    fn coin(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_synced_may_be_gone_and_what_was_is_there() {
        let path = PathBuf::from("/data/file");
        let (mut lost, mut kept) = (false, false);
        for seed in 0..40 {
            let mut disk = MemoryDisk::default();
            let write = |bytes: &[u8]| Step::WriteAt {
                path: path.clone(),
                position: 0,
                bytes: bytes.to_vec(),
                create: true,
            };
            disk.run(&Step::MakeDirectory { path: PathBuf::from("/data") }).unwrap();
            disk.run(&Step::SyncDirectory { path: PathBuf::from("/") }).unwrap();
            disk.run(&write(b"old")).unwrap();
            disk.run(&Step::SyncFile { path: path.clone() }).unwrap();
            disk.run(&Step::SyncDirectory { path: PathBuf::from("/data") }).unwrap();
            disk.run(&write(b"new")).unwrap();
            disk.crash(seed);
            match disk.file(&path).as_deref() {
                Some(b"old") => lost = true,
                Some(b"new") => kept = true,
                other => panic!("{other:?}"),
            }
        }
        assert!(lost && kept);
    }
}
