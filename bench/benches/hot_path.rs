//! The three loops that touch every byte or every batch: CRC, batch walk, streaming decoder.
//!
//! Reports throughput, asserts nothing: `cargo bench -p twinlog-bench --bench hot_path`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use twinlog_log_segment::testing::BatchBuilder;
use twinlog_log_segment::walk::BatchWalk;
use twinlog_sync::wire::Writer;
use twinlog_sync::wire::fetch_response::FetchDecoder;

const PIECE_BYTES: usize = 1 << 20;

fn crc(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("crc32c");
    for bytes in [200, 1_000, 4_096, 65_536, PIECE_BYTES] {
        let data = vec![0x5a; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_with_input(BenchmarkId::from_parameter(bytes), &data, |bencher, data| {
            bencher.iter(|| crc_fast::crc32_iscsi(black_box(data)));
        });
    }
    group.finish();
}

/// About a mebibyte of batches of this size.
fn batches(batch_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut offset = 0;
    while bytes.len() < PIECE_BYTES {
        bytes.extend(BatchBuilder::at(offset).records(1, batch_bytes.saturating_sub(80)).build());
        offset += 1;
    }
    bytes
}

fn walk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch_walk");
    for batch_bytes in [200, 1_000, 16_384, PIECE_BYTES] {
        let data = batches(batch_bytes);
        group.throughput(Throughput::Bytes(data.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(batch_bytes), &data, |bencher, data| {
            let mut walk = BatchWalk::new(u32::MAX);
            bencher.iter(|| {
                let mut rest = black_box(data.as_slice());
                loop {
                    let (consumed, event) = walk.feed(rest);
                    rest = &rest[consumed..];
                    match event {
                        Some(event) => {
                            black_box(event.expect("the batches are whole"));
                        }
                        None => break,
                    }
                }
            });
        });
    }
    group.finish();
}

/// An answer of version 17 whose partitions have no records: what is left is the decoder's own cost.
fn answer(partitions: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::start(&mut out);
    writer.i32(1);
    writer.no_tags(true);
    writer.i32(0);
    writer.i16(0);
    writer.i32(9);
    writer.array_length(true, 1);
    writer.raw(&[7; 16]);
    writer.array_length(true, partitions);
    for index in 0..partitions {
        writer.i32(index as i32);
        writer.i16(0);
        writer.i64(1_000);
        writer.i64(1_000);
        writer.i64(0);
        writer.unsigned_varint(0);
        writer.i32(-1);
        writer.unsigned_varint(1);
        writer.no_tags(true);
    }
    writer.no_tags(true);
    writer.no_tags(true);
    writer.finish();
    out
}

fn decoder(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fetch_decoder");
    for partitions in [1, 40, 1_000] {
        let data = answer(partitions);
        group.throughput(Throughput::Elements(partitions as u64));
        group.bench_with_input(BenchmarkId::from_parameter(partitions), &data, |bencher, data| {
            let mut decoder = FetchDecoder::new(17, 1 << 24);
            bencher.iter(|| {
                decoder.expect(1);
                let mut rest = black_box(data.as_slice());
                while decoder.frame_left() > 0 {
                    let (consumed, event) = decoder.decode(rest).expect("the answer is right");
                    black_box(event);
                    rest = &rest[consumed..];
                }
            });
        });
    }
    group.finish();
}

criterion_group!(hot_path, crc, walk, decoder);
criterion_main!(hot_path);
