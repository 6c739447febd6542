package main

import (
	"context"
	"math"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// copyAll copies what the source has when it is asked, or without an end. Idempotence stays on: without it a client may have one request
// in flight only, or write records twice or in another order.
func copyAll(ctx context.Context, w words) error {
	// Fewer collections for more memory: the copier's best.
	debug.SetGCPercent(400)
	codec, err := compression(w.codec)
	if err != nil {
		return err
	}
	ends, err := ends(ctx, w.source, w.topic)
	if err != nil {
		return err
	}
	if w.follow {
		for index := range ends {
			ends[index] = math.MaxInt64
		}
	}
	consumer, err := kgo.NewClient(reading(w.source, w.topic, ends)...)
	if err != nil {
		return err
	}
	defer consumer.Close()
	producer, err := kgo.NewClient(
		seeds(w.destination),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codec),
		kgo.ProducerBatchMaxBytes(1_000_000),
		kgo.ProducerLinger(5*time.Millisecond),
		kgo.MaxBufferedRecords(1<<20),
		kgo.MaxBufferedBytes(256<<20),
		kgo.RequiredAcks(kgo.AllISRAcks()),
	)
	if err != nil {
		return err
	}
	defer producer.Close()
	var failed atomic.Pointer[error]
	done := func(_ *kgo.Record, err error) {
		if err != nil {
			failed.CompareAndSwap(nil, &err)
		}
	}
	// The record that was read is the record that is written: nothing is copied that need not be.
	err = each(ctx, consumer, ends, func(record *kgo.Record) {
		producer.Produce(ctx, record, done)
	})
	if err != nil {
		return err
	}
	if err := producer.Flush(ctx); err != nil {
		return err
	}
	if first := failed.Load(); first != nil {
		return *first
	}
	return nil
}
