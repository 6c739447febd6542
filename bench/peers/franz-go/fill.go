package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	keyBytes = 8
	// Every so many records one carries a header.
	headerEvery = 100
)

var (
	events = []string{"order.created", "order.paid", "cart.changed", "session.opened", "page.viewed", "refund.asked"}
	places = []string{"/shop/basket", "/shop/checkout", "/account/orders", "/search", "/help/returns", "/home"}
	agents = []string{"Mozilla/5.0 (X11; Linux x86_64)", "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0)", "okhttp/4.12"}
)

// value is text like that of a web shop's events; what repeats in it compresses to about a third.
func value(random *rand.Rand, bytes int) []byte {
	text := make([]byte, 0, bytes+256)
	for len(text) < bytes {
		text = append(text, `{"id":"`...)
		text = strconv.AppendUint(text, random.Uint64(), 16)
		text = strconv.AppendUint(text, random.Uint64(), 16)
		text = append(text, `","event":"`...)
		text = append(text, events[random.IntN(len(events))]...)
		text = append(text, `","at":1700`...)
		text = strconv.AppendUint(text, random.Uint64N(1e9), 10)
		text = append(text, `,"user":`...)
		text = strconv.AppendUint(text, random.Uint64N(1e7), 10)
		text = append(text, `,"path":"`...)
		text = append(text, places[random.IntN(len(places))]...)
		text = append(text, `","agent":"`...)
		text = append(text, agents[random.IntN(len(agents))]...)
		text = append(text, `","token":"`...)
		text = strconv.AppendUint(text, random.Uint64(), 36)
		text = append(text, `"}`...)
	}
	return text[:bytes]
}

// fill writes the same records for the same words: each partition's come from its number alone.
func fill(ctx context.Context, w words) error {
	codec, err := compression(w.codec)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(
		seeds(w.source),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codec),
		kgo.ProducerBatchMaxBytes(int32(w.batchBytes)),
		kgo.ProducerLinger(20*time.Millisecond),
		kgo.MaxBufferedRecords(1<<20),
		kgo.MaxBufferedBytes(128<<20),
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
	randoms := make([]*rand.Rand, w.partitions)
	for index := range randoms {
		randoms[index] = rand.New(rand.NewPCG(1, uint64(index)))
	}
	now := time.Now()
	each := max(1, w.valueBytes/int64(w.recordBytes)/int64(w.partitions))
	for ordinal := range each {
		for index, random := range randoms {
			key := make([]byte, keyBytes)
			binary.BigEndian.PutUint64(key, random.Uint64())
			record := &kgo.Record{
				Topic: w.topic, Partition: int32(index), Key: key, Value: value(random, w.recordBytes),
				Timestamp: now.Add(time.Duration(ordinal) * time.Millisecond / 100),
			}
			if ordinal%headerEvery == 0 {
				record.Headers = []kgo.RecordHeader{{Key: "trace", Value: key}}
			}
			client.Produce(ctx, record, done)
		}
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	if first := failed.Load(); first != nil {
		return *first
	}
	fmt.Println(each*int64(w.partitions), each*int64(w.partitions)*int64(w.recordBytes))
	return nil
}
