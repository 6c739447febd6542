package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/twmb/franz-go/pkg/kgo"
)

// seen is what one partition holds.
type seen struct {
	first, next, count int64
	sum                hash.Hash
	scratch            []byte
}

// digest prints `partition first next count sha256` for each partition: the sum is over every record's offset,
// timestamp, kind of timestamp, key, value and headers, each with its length.
func digest(ctx context.Context, w words) error {
	ends, err := ends(ctx, w.source, w.topic)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(reading(w.source, w.topic, ends)...)
	if err != nil {
		return err
	}
	defer client.Close()
	all := make([]seen, len(ends))
	for index := range all {
		all[index].sum = sha256.New()
	}
	err = each(ctx, client, ends, func(record *kgo.Record) { all[record.Partition].add(record) })
	if err != nil {
		return err
	}
	for index, one := range all {
		fmt.Printf("%d %d %d %d %x\n", index, one.first, one.next, one.count, one.sum.Sum(nil))
	}
	return nil
}

func (s *seen) add(record *kgo.Record) {
	if s.count == 0 {
		s.first = record.Offset
	}
	s.count++
	s.next = record.Offset + 1
	text := s.scratch[:0]
	text = binary.BigEndian.AppendUint64(text, uint64(record.Offset))
	text = binary.BigEndian.AppendUint64(text, uint64(record.Timestamp.UnixMilli()))
	text = append(text, byte(record.Attrs.TimestampType()))
	text = field(text, record.Key)
	text = field(text, record.Value)
	text = binary.BigEndian.AppendUint32(text, uint32(len(record.Headers)))
	for _, header := range record.Headers {
		text = field(text, []byte(header.Key))
		text = field(text, header.Value)
	}
	s.scratch = text
	s.sum.Write(text)
}

// field adds bytes with their length before them; null is not empty.
func field(text, bytes []byte) []byte {
	if bytes == nil {
		return binary.BigEndian.AppendUint32(text, ^uint32(0))
	}
	text = binary.BigEndian.AppendUint32(text, uint32(len(bytes)))
	return append(text, bytes...)
}
