package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Records are due in steps of this length.
const step = time.Millisecond

// load produces at a fixed rate, whoever keeps up or not: a record's timestamp is when it was due, not when there was
// time to send it. It prints how many records it sent, and how late it was at most.
func load(ctx context.Context, w words) error {
	codec, err := compression(w.codec)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(
		seeds(w.source),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codec),
		kgo.ProducerBatchMaxBytes(int32(w.batchBytes)),
		kgo.ProducerLinger(time.Millisecond),
		kgo.MaxBufferedRecords(1<<20),
		kgo.RequiredAcks(kgo.AllISRAcks()),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	var failed atomic.Pointer[error]
	done := func(_ *kgo.Record, err error) {
		if err != nil {
			failed.CompareAndSwap(nil, &err)
		}
	}
	// Values are made before: making them must not cost time between two records.
	random := rand.New(rand.NewPCG(2, 0))
	values := make([][]byte, 512)
	for index := range values {
		values[index] = value(random, w.recordBytes)
	}
	perSecond := int64(w.rate) / int64(w.recordBytes)
	total := perSecond * int64(w.seconds)
	var late time.Duration
	began := time.Now()
	for sent := int64(0); sent < total; {
		now := time.Since(began)
		due := min(total, int64(now.Seconds()*float64(perSecond)))
		for ; sent < due; sent++ {
			at := began.Add(time.Duration(float64(sent) / float64(perSecond) * float64(time.Second)))
			late = max(late, time.Since(at))
			record := &kgo.Record{
				Topic: w.topic, Partition: int32(sent % int64(w.partitions)),
				Value: values[sent%int64(len(values))], Timestamp: at,
			}
			client.Produce(ctx, record, done)
		}
		time.Sleep(step)
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	if first := failed.Load(); first != nil {
		return *first
	}
	fmt.Println(total, late.Milliseconds())
	return nil
}
