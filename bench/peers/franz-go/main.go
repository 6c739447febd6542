// Command franz-go is the strongest client that the comparison knows, as a copier: it reads every partition of a topic
// and produces its records to the same partition elsewhere. It also fills sources and digests topics, with every
// record's offset, timestamp, key, value and headers, for all copiers alike.
//
// It must never share code with the product: what it finds is evidence about it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// words of a command line; each verb uses some of them.
type words struct {
	source, destination, topic, codec                  string
	partitions, recordBytes, batchBytes, rate, seconds int
	valueBytes                                         int64
	follow                                             bool
}

func main() {
	if len(os.Args) < 2 {
		end(fmt.Errorf("usage: franz-go fill|copy|digest|load -source HOST:PORT -topic NAME ..."))
	}
	var w words
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	flags.StringVar(&w.source, "source", "", "brokers to read from, or to fill")
	flags.StringVar(&w.destination, "destination", "", "brokers to copy to")
	flags.StringVar(&w.topic, "topic", "", "topic, the same on both sides")
	flags.StringVar(&w.codec, "codec", "none", "none, lz4 or zstd")
	flags.IntVar(&w.partitions, "partitions", 1, "partitions to fill")
	flags.IntVar(&w.recordBytes, "record-bytes", 1024, "bytes of each value to fill with")
	flags.IntVar(&w.batchBytes, "batch-bytes", 64<<10, "bytes of a filled batch before it is compressed")
	flags.Int64Var(&w.valueBytes, "value-bytes", 1e9, "bytes of all values to fill with")
	flags.IntVar(&w.rate, "rate", 1e6, "bytes of values per second to load with")
	flags.IntVar(&w.seconds, "seconds", 10, "how long to load")
	flags.BoolVar(&w.follow, "follow", false, "copy on until killed")
	end(flags.Parse(os.Args[2:]))
	verbs := map[string]func(context.Context, words) error{
		"fill": fill, "copy": copyAll, "digest": digest, "load": load,
	}
	verb, known := verbs[os.Args[1]]
	if !known {
		end(fmt.Errorf("there is no verb %q", os.Args[1]))
	}
	end(verb(context.Background(), w))
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "franz-go:", err)
		os.Exit(1)
	}
}

func compression(name string) (kgo.CompressionCodec, error) {
	switch name {
	case "none":
		return kgo.NoCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	}
	return kgo.NoCompression(), fmt.Errorf("there is no codec %q", name)
}

func seeds(brokers string) kgo.Opt {
	return kgo.SeedBrokers(strings.Split(brokers, ",")...)
}

// ends are the end offsets of a topic's partitions.
func ends(ctx context.Context, brokers, topic string) ([]int64, error) {
	client, err := kgo.NewClient(seeds(brokers))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	metadata := kmsg.NewMetadataRequest()
	asked := kmsg.NewMetadataRequestTopic()
	asked.Topic = kmsg.StringPtr(topic)
	metadata.Topics = append(metadata.Topics, asked)
	known, err := metadata.RequestWith(ctx, client)
	if err != nil {
		return nil, err
	}
	if len(known.Topics) != 1 || len(known.Topics[0].Partitions) == 0 {
		return nil, fmt.Errorf("%s is not there", topic)
	}
	request := kmsg.NewListOffsetsRequest()
	of := kmsg.NewListOffsetsRequestTopic()
	of.Topic = topic
	for index := range known.Topics[0].Partitions {
		one := kmsg.NewListOffsetsRequestTopicPartition()
		one.Partition, one.Timestamp = int32(index), -1
		of.Partitions = append(of.Partitions, one)
	}
	request.Topics = append(request.Topics, of)
	found := make([]int64, len(of.Partitions))
	for _, shard := range client.RequestSharded(ctx, &request) {
		if shard.Err != nil {
			return nil, shard.Err
		}
		for _, topic := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, one := range topic.Partitions {
				if one.ErrorCode != 0 {
					return nil, fmt.Errorf("the end of partition %d: error %d", one.Partition, one.ErrorCode)
				}
				found[one.Partition] = one.Offset
			}
		}
	}
	return found, nil
}

// reading is the way both the copier and the digest consume: from the start, whole, in large pieces.
func reading(brokers, topic string, ends []int64) []kgo.Opt {
	from := make(map[int32]kgo.Offset)
	for index, end := range ends {
		if end > 0 {
			from[int32(index)] = kgo.NewOffset().AtStart()
		}
	}
	return []kgo.Opt{
		seeds(brokers),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}),
		kgo.FetchMaxBytes(32 << 20),
		kgo.FetchMaxPartitionBytes(8 << 20),
		kgo.BrokerMaxReadBytes(100 << 20),
		kgo.FetchMaxWait(100_000_000),
	}
}

// each hands every record below the ends to use, in the order of its partition.
func each(ctx context.Context, client *kgo.Client, ends []int64, use func(*kgo.Record)) error {
	left := 0
	for _, end := range ends {
		if end > 0 {
			left++
		}
	}
	for left > 0 {
		fetches := client.PollFetches(ctx)
		for _, failed := range fetches.Errors() {
			return failed.Err
		}
		fetches.EachPartition(func(fetched kgo.FetchTopicPartition) {
			for _, record := range fetched.Records {
				end := ends[record.Partition]
				if record.Offset == end-1 {
					left--
				}
				use(record)
			}
		})
	}
	return nil
}
