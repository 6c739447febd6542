//! Steps on real files.
//!
//! Owns: how each [`Step`] becomes system calls. It must never run on a data core: every call here may block.
//! Invariant: a step reports success only when all of it happened; nothing is claimed durable but by the
//! `Sync*` steps and `Replace`.

use crate::disk::{DirectoryEntry, Disk, FileFacts, STEP_READ_BYTES_MAX, Space, Step, StepOutput};
use crate::operation::SystemError;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, StatxFlags};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Copy buffer where the kernel cannot copy by itself; larger gains nothing.
const COPY_BUFFER_BYTES: usize = 1 << 20;

/// The host's file systems.
#[derive(Clone, Copy, Default, Debug)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn run(&mut self, step: &Step) -> Result<StepOutput, SystemError> {
        run(step)
    }
}

fn run(step: &Step) -> Result<StepOutput, SystemError> {
    match step {
        Step::MakeDirectory { path } => done(std::fs::create_dir_all(path)),
        Step::List { path } => list(path).map(StepOutput::Listed).map_err(system),
        // A descriptor cannot be told in plain data: the engine opens, see `open_file`.
        Step::Open { .. } => Err(SystemError::INVALID),
        Step::Allocate { path, length } => allocate(path, *length),
        Step::Truncate { path, length } => done(writable(path, false).and_then(|file| file.set_len(*length))),
        Step::WriteAt { path, position, bytes, create } => {
            done(writable(path, *create).and_then(|file| file.write_all_at(bytes, *position)))
        }
        Step::Append { path, bytes } => {
            let file = OpenOptions::new().append(true).create(true).open(path);
            done(file.and_then(|mut file| file.write_all(bytes)))
        }
        Step::ReadAt { path, position, length } => read_at(path, *position, *length),
        Step::Replace { path, bytes } => replace(path, bytes),
        Step::SyncFile { path } => done(File::open(path).and_then(|file| file.sync_all())),
        Step::SyncDirectory { path } => done(File::open(path).and_then(|directory| directory.sync_all())),
        Step::SyncFileSystem { path } => {
            rustix::fs::syncfs(File::open(path).map_err(system)?)?;
            Ok(StepOutput::Done)
        }
        Step::Rename { from, to } => done(std::fs::rename(from, to)),
        Step::Remove { path } => done_or_missing(std::fs::remove_file(path)),
        Step::RemoveDirectory { path } => done_or_missing(std::fs::remove_dir_all(path)),
        Step::CopyRange { from, from_position, length, to } => copy_range(from, *from_position, *length, to),
        Step::Space { path } => space(path),
        Step::Stat { path } => stat(path),
    }
}

/// Opens a file for an engine. The flag in the output says whether direct I/O really holds.
pub(crate) fn open_file(
    path: &Path,
    create: bool,
    direct: bool,
) -> Result<(OwnedFd, StepOutput), SystemError> {
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC;
    flags.set(OFlags::CREATE, create);
    let mode = Mode::from_raw_mode(0o644);
    let (descriptor, direct) = match rustix::fs::open(path, flags | OFlags::DIRECT, mode) {
        _ if !direct => (rustix::fs::open(path, flags, mode)?, false),
        Ok(descriptor) if direct_holds(&descriptor) => (descriptor, true),
        // Some file systems refuse O_DIRECT at open, others take it and refuse (or need odd alignment) at write.
        Ok(_) => (rustix::fs::open(path, flags, mode)?, false),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => {
            (rustix::fs::open(path, flags, mode)?, false)
        }
        Err(error) => return Err(error.into()),
    };
    let length = rustix::fs::fstat(&descriptor)?.st_size as u64;
    Ok((descriptor, StepOutput::Opened { direct, length }))
}

/// False only when the kernel (6.1 and later) says that our alignment is not enough.
pub(crate) fn direct_holds(descriptor: &OwnedFd) -> bool {
    match rustix::fs::statx(descriptor, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(facts) if facts.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
            (1..=4096).contains(&facts.stx_dio_offset_align) && (1..=4096).contains(&facts.stx_dio_mem_align)
        }
        _ => true,
    }
}

fn system(error: std::io::Error) -> SystemError {
    // The standard library gives up on a write of 0 bytes without an errno: the device took nothing.
    if error.kind() == ErrorKind::WriteZero { SystemError::NO_SPACE } else { SystemError::from_std(&error) }
}

fn done(result: std::io::Result<()>) -> Result<StepOutput, SystemError> {
    result.map(|()| StepOutput::Done).map_err(system)
}

fn done_or_missing(result: std::io::Result<()>) -> Result<StepOutput, SystemError> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(StepOutput::Missing),
        result => done(result),
    }
}

fn writable(path: &Path, create: bool) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path)
}

fn list(path: &Path) -> std::io::Result<Vec<DirectoryEntry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let facts = match entry.metadata() {
            Ok(facts) => facts,
            // Removed while we were reading the directory.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let directory = facts.is_dir();
        let length = if directory { 0 } else { facts.len() };
        entries.push(DirectoryEntry {
            name: entry.file_name().to_string_lossy().into_owned(),
            directory,
            length,
        });
    }
    entries.sort();
    Ok(entries)
}

fn allocate(path: &Path, length: u64) -> Result<StepOutput, SystemError> {
    let file = writable(path, false).map_err(system)?;
    // Mode 0, not KEEP_SIZE: a direct write inside the file's length stays inline, one that moves the end leaves
    // for a kernel worker and costs three times the CPU.
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length) {
        Ok(()) => Ok(StepOutput::Done),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(StepOutput::Unsupported),
        Err(error) => Err(error.into()),
    }
}

fn read_at(path: &Path, position: u64, length: u32) -> Result<StepOutput, SystemError> {
    if length > STEP_READ_BYTES_MAX {
        return Err(SystemError::INVALID);
    }
    let file = File::open(path).map_err(system)?;
    let mut bytes = vec![0; length as usize];
    let count = read_full_at(&file, &mut bytes, position).map_err(system)?;
    bytes.truncate(count);
    Ok(StepOutput::Bytes(bytes))
}

fn read_full_at(file: &File, bytes: &mut [u8], position: u64) -> std::io::Result<usize> {
    let mut count = 0;
    while count < bytes.len() {
        match file.read_at(&mut bytes[count..], position + count as u64) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn replace(path: &Path, bytes: &[u8]) -> Result<StepOutput, SystemError> {
    let name = path.file_name().ok_or(SystemError::INVALID)?;
    let mut temporary_name = name.to_os_string();
    temporary_name.push(".tmp");
    let temporary: PathBuf = path.with_file_name(temporary_name);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let replaced = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path))
        // Without it a crash may bring the old content back after we told that the new one is there.
        .and_then(|()| File::open(directory)?.sync_all());
    done(replaced)
}

fn copy_range(from: &Path, from_position: u64, length: u64, to: &Path) -> Result<StepOutput, SystemError> {
    let source = File::open(from).map_err(system)?;
    let destination = File::create(to).map_err(system)?;
    let mut copied = 0;
    while copied < length {
        let (mut read_position, mut write_position) = (from_position + copied, copied);
        let piece = usize::try_from(length - copied).unwrap_or(usize::MAX).min(1 << 30);
        let result = rustix::fs::copy_file_range(
            &source,
            Some(&mut read_position),
            &destination,
            Some(&mut write_position),
            piece,
        );
        match result {
            Ok(0) => break,
            Ok(count) => copied += count as u64,
            // Other file system, or one that cannot: the rest through memory.
            Err(
                rustix::io::Errno::XDEV
                | rustix::io::Errno::INVAL
                | rustix::io::Errno::OPNOTSUPP
                | rustix::io::Errno::NOSYS,
            ) => {
                copied += copy_through_memory(
                    &source,
                    from_position + copied,
                    length - copied,
                    &destination,
                    copied,
                )
                .map_err(system)?;
                break;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(StepOutput::Copied(copied))
}

fn copy_through_memory(
    source: &File,
    from_position: u64,
    length: u64,
    destination: &File,
    to_position: u64,
) -> std::io::Result<u64> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    let mut copied = 0;
    while copied < length {
        let piece = usize::try_from(length - copied).unwrap_or(usize::MAX).min(COPY_BUFFER_BYTES);
        let count = read_full_at(source, &mut buffer[..piece], from_position + copied)?;
        destination.write_all_at(&buffer[..count], to_position + copied)?;
        copied += count as u64;
        if count < piece {
            break;
        }
    }
    Ok(copied)
}

fn space(path: &Path) -> Result<StepOutput, SystemError> {
    let facts = rustix::fs::statvfs(path)?;
    let (free_bytes, total_bytes) = (facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize);
    Ok(StepOutput::Space(Space { free_bytes, total_bytes }))
}

fn stat(path: &Path) -> Result<StepOutput, SystemError> {
    match std::fs::metadata(path) {
        Ok(facts) => Ok(StepOutput::Facts(FileFacts {
            directory: facts.is_dir(),
            length: facts.len(),
            allocated_bytes: facts.blocks() * 512,
            modified_ms: facts.mtime() * 1000 + facts.mtime_nsec() / 1_000_000,
        })),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(StepOutput::Missing),
        Err(error) => Err(system(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Job;
    use crate::operation::FileKey;
    use crate::scratch::Scratch;

    fn ok(step: Step) -> StepOutput {
        RealDisk.run(&step).unwrap_or_else(|error| panic!("{step:?}: {error}"))
    }

    #[test]
    fn a_file_is_written_read_cut_and_listed() {
        let scratch = Scratch::new();
        let directory = scratch.join("a/b");
        let path = directory.join("file");
        ok(Step::MakeDirectory { path: directory.clone() });
        ok(Step::MakeDirectory { path: directory.clone() });
        ok(Step::WriteAt { path: path.clone(), position: 2, bytes: b"cdef".to_vec(), create: true });
        ok(Step::Append { path: path.clone(), bytes: b"gh".to_vec() });
        let read = |position, length| ok(Step::ReadAt { path: path.clone(), position, length });
        assert_eq!(read(0, 100), StepOutput::Bytes(b"\0\0cdefgh".to_vec()));
        assert_eq!(read(100, 1), StepOutput::Bytes(Vec::new()));
        ok(Step::Truncate { path: path.clone(), length: 3 });
        ok(Step::SyncFile { path: path.clone() });
        ok(Step::SyncDirectory { path: directory.clone() });
        let entry = DirectoryEntry { name: "file".into(), directory: false, length: 3 };
        assert_eq!(ok(Step::List { path: directory.clone() }), StepOutput::Listed(vec![entry]));
        let outer = DirectoryEntry { name: "b".into(), directory: true, length: 0 };
        assert_eq!(ok(Step::List { path: scratch.join("a") }), StepOutput::Listed(vec![outer]));
    }

    #[test]
    fn replace_leaves_the_new_content_and_no_temporary_file() {
        let scratch = Scratch::new();
        let path = scratch.join("checkpoint");
        ok(Step::Replace { path: path.clone(), bytes: b"old and long".to_vec() });
        ok(Step::Replace { path: path.clone(), bytes: b"new".to_vec() });
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn removing_what_is_not_there_is_said_and_is_no_failure() {
        let scratch = Scratch::new();
        let path = scratch.join("nothing");
        assert_eq!(ok(Step::Remove { path: path.clone() }), StepOutput::Missing);
        assert_eq!(ok(Step::RemoveDirectory { path: path.clone() }), StepOutput::Missing);
        assert_eq!(ok(Step::Stat { path: path.clone() }), StepOutput::Missing);
        assert_eq!(RealDisk.run(&Step::List { path: path.clone() }), Err(SystemError::NOT_FOUND));
        let missing = Step::WriteAt { path, position: 0, bytes: vec![1], create: false };
        assert_eq!(RealDisk.run(&missing), Err(SystemError::NOT_FOUND));
    }

    #[test]
    fn allocation_moves_the_end_of_the_file_and_keeps_its_content() {
        let scratch = Scratch::new();
        let path = scratch.join("segment");
        ok(Step::WriteAt { path: path.clone(), position: 0, bytes: b"head".to_vec(), create: true });
        if ok(Step::Allocate { path: path.clone(), length: 1 << 20 }) == StepOutput::Unsupported {
            return;
        }
        let StepOutput::Facts(facts) = ok(Step::Stat { path: path.clone() }) else { panic!("no facts") };
        assert_eq!(facts.length, 1 << 20);
        assert!(facts.allocated_bytes >= 1 << 20);
        assert_eq!(
            ok(Step::ReadAt { path, position: 0, length: 6 }),
            StepOutput::Bytes(b"head\0\0".to_vec())
        );
    }

    #[test]
    fn a_range_is_copied_as_far_as_the_source_goes() {
        let scratch = Scratch::new();
        let (from, to) = (scratch.join("from"), scratch.join("to"));
        let bytes: Vec<u8> = (0..100_000u32).map(|index| index as u8).collect();
        std::fs::write(&from, &bytes).unwrap();
        std::fs::write(&to, [9; 200_000]).unwrap();
        let copy =
            |length| Step::CopyRange { from: from.clone(), from_position: 1000, length, to: to.clone() };
        assert_eq!(ok(copy(5000)), StepOutput::Copied(5000));
        assert_eq!(std::fs::read(&to).unwrap(), bytes[1000..6000]);
        assert_eq!(ok(copy(1 << 40)), StepOutput::Copied(99_000));
        assert_eq!(std::fs::read(&to).unwrap(), bytes[1000..]);
        let (source, destination) = (File::open(&from).unwrap(), File::create(&to).unwrap());
        assert_eq!(copy_through_memory(&source, 1000, 1 << 40, &destination, 0).unwrap(), 99_000);
        assert_eq!(std::fs::read(&to).unwrap(), bytes[1000..]);
    }

    #[test]
    fn space_is_told_and_a_directory_is_known_as_one() {
        let scratch = Scratch::new();
        let StepOutput::Space(space) = ok(Step::Space { path: scratch.path().into() }) else {
            panic!("no space")
        };
        assert!(space.free_bytes <= space.total_bytes && space.total_bytes > 0);
        let StepOutput::Facts(facts) = ok(Step::Stat { path: scratch.path().into() }) else {
            panic!("no facts")
        };
        assert!(facts.directory);
        ok(Step::SyncFileSystem { path: scratch.path().into() });
    }

    #[test]
    fn a_directory_tree_moves_and_goes() {
        let scratch = Scratch::new();
        let (from, to) = (scratch.join("t-0"), scratch.join("t-0.deleted"));
        let job = Job::new(vec![
            Step::MakeDirectory { path: from.clone() },
            Step::WriteAt { path: from.join("x"), position: 0, bytes: vec![1], create: true },
            Step::Rename { from, to: to.clone() },
            Step::RemoveDirectory { path: to.clone() },
        ]);
        let outcome = job.run(|step| RealDisk.run(step));
        assert_eq!(outcome.failed, None);
        assert!(!to.exists());
    }

    #[test]
    fn opening_is_left_to_an_engine() {
        let step = Step::Open { file: FileKey(0), path: "x".into(), create: false, direct: false };
        assert_eq!(RealDisk.run(&step), Err(SystemError::INVALID));
        let scratch = Scratch::new();
        let path = scratch.join("file");
        assert_eq!(open_file(&path, false, true).unwrap_err(), SystemError::NOT_FOUND);
        let (_descriptor, output) = open_file(&path, true, false).unwrap();
        assert_eq!(output, StepOutput::Opened { direct: false, length: 0 });
    }
}
