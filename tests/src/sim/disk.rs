//! A disk that forgets what was not synced: the simulated world's files.
//!
//! ```text
//!   write --> content (what a read sees)            kill -9: content stays, writes in flight tear
//!         \-> pending, until a sync of the file     power loss: durable content + any sectors of pending
//!   create, rename, remove --> names; pending until a sync of the directory, lost from the end backwards
//! ```
//! Each pending write survives a power loss sector by sector, in any combination, and a change of length
//! survives or does not, so a file can come back with old bytes behind new ones.

use super::random::Random;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use twinlog_io::{DirectoryEntry, Disk, FileFacts, Space, Step, StepOutput, SystemError};

/// What a disk writes at once or not at all.
pub const SECTOR_BYTES: usize = 512;

#[derive(Clone, Debug)]
enum Change {
    Write { position: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Clone, Default)]
struct File {
    content: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

impl File {
    fn write(&mut self, position: usize, bytes: &[u8]) {
        apply(&mut self.content, position, bytes);
        self.pending.push(Change::Write { position, bytes: bytes.to_vec() });
    }

    fn set_length(&mut self, length: usize) {
        self.content.resize(length, 0);
        self.pending.push(Change::Length(length));
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.content);
        self.pending.clear();
    }

    fn lose_power(&mut self, random: &mut Random) {
        let mut survived = std::mem::take(&mut self.durable);
        // Most of what was written long ago has reached the platter by itself.
        let keep_all = random.one_in(4);
        for change in self.pending.drain(..) {
            match change {
                Change::Length(length) if keep_all || random.one_in(2) => survived.resize(length, 0),
                Change::Length(_) => {}
                Change::Write { position, bytes } if keep_all => apply(&mut survived, position, &bytes),
                Change::Write { position, bytes } => tear(&mut survived, position, &bytes, random),
            }
        }
        self.content.clone_from(&survived);
        self.durable = survived;
    }
}

fn apply(content: &mut Vec<u8>, position: usize, bytes: &[u8]) {
    let end = position + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[position..end].copy_from_slice(bytes);
}

/// Any subset of the write's sectors.
fn tear(content: &mut Vec<u8>, position: usize, bytes: &[u8], random: &mut Random) {
    for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
        if random.one_in(2) {
            apply(content, position + index * SECTOR_BYTES, sector);
        }
    }
}

/// A name appeared, moved or went.
#[derive(Clone)]
enum NameChange {
    Create(PathBuf),
    Rename { from: PathBuf, to: PathBuf, replaced: Option<File> },
    Remove(PathBuf, File),
}

impl NameChange {
    fn directory(&self) -> Option<&Path> {
        match self {
            Self::Create(path) | Self::Remove(path, _) | Self::Rename { to: path, .. } => path.parent(),
        }
    }
}

/// Faults that the world injects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskFaults {
    /// Every write and allocation that needs room fails.
    pub full: bool,
    /// The next sync fails, once.
    pub sync_fails: bool,
}

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, File>,
    directories: BTreeMap<PathBuf, ()>,
    names: Vec<NameChange>,
    faults: DiskFaults,
    steps: u64,
    crash_after: Option<u64>,
    crashed: bool,
}

/// A handle; clones are the same disk.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

impl SimulatedDisk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_faults(&self, faults: DiskFaults) {
        self.lock().faults = faults;
    }

    /// From the `steps`-th mutating step on everything fails, as if the process had died there.
    pub fn crash_after(&self, steps: Option<u64>) {
        let mut state = self.lock();
        state.crash_after = steps.map(|steps| state.steps + steps);
        state.crashed = false;
    }

    pub fn has_crashed(&self) -> bool {
        self.lock().crashed
    }

    /// The page cache is gone: only what was synced is sure to be here.
    pub fn lose_power(&self, random: &mut Random) {
        let mut state = self.lock();
        let kept = random.below(state.names.len() as u64 + 1) as usize;
        let lost: Vec<NameChange> = state.names.drain(..).skip(kept).collect();
        for change in lost.into_iter().rev() {
            match change {
                NameChange::Create(path) => {
                    state.files.remove(&path);
                }
                NameChange::Remove(path, file) => {
                    state.files.insert(path, file);
                }
                NameChange::Rename { from, to, replaced } => {
                    if let Some(file) = state.files.remove(&to) {
                        state.files.insert(from, file);
                    }
                    if let Some(file) = replaced {
                        state.files.insert(to, file);
                    }
                }
            }
        }
        state.files.values_mut().for_each(|file| file.lose_power(random));
    }

    /// A write by position that completed.
    pub fn write(&self, path: &Path, position: u64, bytes: &[u8]) -> Result<(), SystemError> {
        let mut state = self.lock();
        let file = state.files.get_mut(path).ok_or(SystemError::NOT_FOUND)?;
        file.write(position as usize, bytes);
        Ok(())
    }

    /// A write that was under way when the process died: any subset of its sectors.
    pub fn write_torn(&self, path: &Path, position: u64, bytes: &[u8], random: &mut Random) {
        if let Some(file) = self.lock().files.get_mut(path) {
            for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                if random.one_in(2) {
                    file.write(position as usize + index * SECTOR_BYTES, sector);
                }
            }
        }
    }

    pub fn read(&self, path: &Path, position: u64, length: usize) -> Result<Vec<u8>, SystemError> {
        let state = self.lock();
        let file = state.files.get(path).ok_or(SystemError::NOT_FOUND)?;
        let start = (position as usize).min(file.content.len());
        let end = (start + length).min(file.content.len());
        Ok(file.content[start..end].to_vec())
    }

    /// A sync starts: how many changes it will cover. What completes later is not covered.
    pub fn sync_begins(&self, path: &Path) -> usize {
        self.lock().files.get(path).map_or(0, |file| file.pending.len())
    }

    /// The sync that began over `covered` changes has completed.
    pub fn sync_ends(&self, path: &Path, covered: usize) -> Result<(), SystemError> {
        let mut state = self.lock();
        state.sync_may_fail()?;
        let file = state.files.get_mut(path).ok_or(SystemError::NOT_FOUND)?;
        for change in file.pending.drain(..covered.min(file.pending.len())).collect::<Vec<_>>() {
            match change {
                Change::Write { position, bytes } => apply(&mut file.durable, position, &bytes),
                Change::Length(length) => file.durable.resize(length, 0),
            }
        }
        Ok(())
    }

    /// Opens or makes a file; its length.
    pub fn open(&self, path: &Path, create: bool) -> Result<u64, SystemError> {
        let mut state = self.lock();
        state.ensure(path, create)?;
        Ok(state.files[path].content.len() as u64)
    }

    /// Paths of all files, for the world's oracles.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.lock().files.keys().cloned().collect()
    }
}

impl State {
    fn ensure(&mut self, path: &Path, create: bool) -> Result<&mut File, SystemError> {
        if !self.files.contains_key(path) {
            if !create {
                return Err(SystemError::NOT_FOUND);
            }
            self.files.insert(path.to_path_buf(), File::default());
            self.names.push(NameChange::Create(path.to_path_buf()));
        }
        Ok(self.files.get_mut(path).expect("inserted just now"))
    }

    fn sync_may_fail(&mut self) -> Result<(), SystemError> {
        if std::mem::take(&mut self.faults.sync_fails) {
            return Err(SystemError::INPUT_OUTPUT);
        }
        Ok(())
    }

    fn room(&self) -> Result<(), SystemError> {
        if self.faults.full { Err(SystemError::NO_SPACE) } else { Ok(()) }
    }

    fn sync_directory(&mut self, path: &Path) {
        self.names.retain(|change| change.directory() != Some(path));
    }

    fn list(&self, path: &Path) -> Result<StepOutput, SystemError> {
        let mut entries = Vec::new();
        for (name, file) in &self.files {
            if name.parent() == Some(path) {
                entries.push(entry(name, false, file.content.len()));
            }
        }
        for name in self.directories.keys() {
            if name.parent() == Some(path) {
                entries.push(entry(name, true, 0));
            }
        }
        if entries.is_empty() && !self.directories.contains_key(path) {
            return Err(SystemError::NOT_FOUND);
        }
        entries.sort();
        Ok(StepOutput::Listed(entries))
    }

    fn remove(&mut self, path: &Path) -> StepOutput {
        match self.files.remove(path) {
            Some(file) => {
                self.names.push(NameChange::Remove(path.to_path_buf(), file));
                StepOutput::Done
            }
            None => StepOutput::Missing,
        }
    }

    fn replace(&mut self, path: &Path, bytes: &[u8]) -> Result<(), SystemError> {
        self.room()?;
        let mut file = File::default();
        file.write(0, bytes);
        file.sync();
        self.files.insert(path.to_path_buf(), file);
        if let Some(parent) = path.parent() {
            self.sync_directory(parent);
        }
        Ok(())
    }

    fn change(&mut self, step: &Step) -> Result<StepOutput, SystemError> {
        match step {
            Step::MakeDirectory { path } => {
                for ancestor in path.ancestors() {
                    self.directories.insert(ancestor.to_path_buf(), ());
                }
            }
            Step::Allocate { path, length } => {
                self.room()?;
                let file = self.files.get_mut(path).ok_or(SystemError::NOT_FOUND)?;
                if file.content.len() < *length as usize {
                    file.set_length(*length as usize);
                }
            }
            Step::Truncate { path, length } => {
                self.files.get_mut(path).ok_or(SystemError::NOT_FOUND)?.set_length(*length as usize);
            }
            Step::WriteAt { path, position, bytes, create } => {
                self.room()?;
                self.ensure(path, *create)?.write(*position as usize, bytes);
            }
            Step::Append { path, bytes } => {
                self.room()?;
                let file = self.ensure(path, true)?;
                file.write(file.content.len(), bytes);
            }
            Step::Replace { path, bytes } => self.replace(path, bytes)?,
            Step::Rename { from, to } => {
                let file = self.files.remove(from).ok_or(SystemError::NOT_FOUND)?;
                let replaced = self.files.insert(to.clone(), file);
                self.names.push(NameChange::Rename { from: from.clone(), to: to.clone(), replaced });
            }
            Step::Remove { path } => return Ok(self.remove(path)),
            Step::RemoveDirectory { path } => {
                let inside: Vec<PathBuf> =
                    self.files.keys().filter(|name| name.starts_with(path)).cloned().collect();
                inside.iter().for_each(|name| {
                    self.remove(name);
                });
                self.directories.retain(|name, ()| !name.starts_with(path));
            }
            Step::CopyRange { from, from_position, length, to } => {
                self.room()?;
                let file = self.files.get(from).ok_or(SystemError::NOT_FOUND)?;
                let start = (*from_position as usize).min(file.content.len());
                let end = (start + *length as usize).min(file.content.len());
                let bytes = file.content[start..end].to_vec();
                self.ensure(to, true)?.set_length(0);
                self.ensure(to, true)?.write(0, &bytes);
                return Ok(StepOutput::Copied(bytes.len() as u64));
            }
            other => panic!("{other:?} changes nothing"),
        }
        Ok(StepOutput::Done)
    }

    fn read_only(&mut self, step: &Step) -> Option<Result<StepOutput, SystemError>> {
        Some(match step {
            Step::List { path } => self.list(path),
            Step::ReadAt { path, position, length } => match self.files.get(path) {
                None => Err(SystemError::NOT_FOUND),
                Some(file) => {
                    let start = (*position as usize).min(file.content.len());
                    let end = (start + *length as usize).min(file.content.len());
                    Ok(StepOutput::Bytes(file.content[start..end].to_vec()))
                }
            },
            Step::Stat { path } => match self.files.get(path) {
                Some(file) => Ok(facts(false, file.content.len() as u64)),
                None if self.directories.contains_key(path) => Ok(facts(true, 0)),
                None => Ok(StepOutput::Missing),
            },
            Step::Space { .. } => Ok(StepOutput::Space(Space { free_bytes: 1 << 40, total_bytes: 1 << 41 })),
            Step::SyncFile { path } => self.sync_may_fail().and_then(|()| {
                self.files.get_mut(path).ok_or(SystemError::NOT_FOUND)?.sync();
                Ok(StepOutput::Done)
            }),
            Step::SyncDirectory { path } => {
                self.sync_directory(path);
                Ok(StepOutput::Done)
            }
            Step::SyncFileSystem { .. } => self.sync_may_fail().map(|()| {
                self.names.clear();
                self.files.values_mut().for_each(File::sync);
                StepOutput::Done
            }),
            // A disk without an engine has no table of open files.
            Step::Open { .. } => Err(SystemError::INVALID),
            _ => return None,
        })
    }
}

fn entry(name: &Path, directory: bool, length: usize) -> DirectoryEntry {
    let name = name.file_name().expect("no path of ours ends in ..").to_string_lossy().into_owned();
    DirectoryEntry { name, directory, length: length as u64 }
}

fn facts(directory: bool, length: u64) -> StepOutput {
    StepOutput::Facts(FileFacts { directory, length, allocated_bytes: length, modified_ms: 0 })
}

impl Disk for SimulatedDisk {
    fn run(&mut self, step: &Step) -> Result<StepOutput, SystemError> {
        let mut state = self.lock();
        if let Some(crash_after) = state.crash_after
            && state.steps >= crash_after
        {
            state.crashed = true;
            return Err(SystemError::INPUT_OUTPUT);
        }
        state.steps += 1;
        match state.read_only(step) {
            Some(answer) => answer,
            None => state.change(step),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synced_bytes_survive_a_power_loss_and_others_may_not() {
        let mut lost = false;
        for seed in 0..20 {
            let mut disk = SimulatedDisk::default();
            let path = PathBuf::from("/d/f");
            let bytes = vec![7; 2000];
            disk.run(&Step::WriteAt { path: path.clone(), position: 0, bytes, create: true }).unwrap();
            disk.run(&Step::SyncFile { path: path.clone() }).unwrap();
            disk.run(&Step::SyncDirectory { path: PathBuf::from("/d") }).unwrap();
            disk.write(&path, 1000, &[9; 2000]).unwrap();
            disk.lose_power(&mut Random::new(seed));
            let content = disk.read(&path, 0, 4000).unwrap();
            assert!(content[..1000].iter().all(|byte| *byte == 7), "a synced byte is gone");
            lost |= content.get(1000..3000) != Some(&[9; 2000]);
        }
        assert!(lost, "a power loss that loses nothing tests nothing");
    }

    #[test]
    fn a_name_that_was_not_synced_can_vanish() {
        let vanished = (0..20).any(|seed| {
            let mut disk = SimulatedDisk::default();
            let path = PathBuf::from("/d/f");
            disk.run(&Step::Append { path: path.clone(), bytes: vec![1] }).unwrap();
            disk.lose_power(&mut Random::new(seed));
            disk.paths().is_empty()
        });
        assert!(vanished);
    }
}
