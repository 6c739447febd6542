// What the tests do to a real Kafka cluster, by Kafka's own client: one long-lived process per cluster.
//
// Reads one command a line from standard input, `verb key=value key=value ...`, and answers one line:
// `ok key=value ...` or `error <what happened>`. Values hold no spaces. Commands run one after another;
// only `produce-start` leaves something running behind it. Random content comes from `seed` alone, so a
// failing test can be run again with the same bytes.

import java.io.BufferedReader;
import java.io.FileReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.admin.NewPartitionReassignment;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.ElectionNotNeededException;
import org.apache.kafka.common.errors.NoReassignmentInProgressException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public final class Scenario {
    /** Longest wait for one thing; a cluster that needs longer is broken. */
    private static final long WAIT_MS = 90_000;

    private final String bootstrap;
    private final Properties connection;
    private final Admin admin;
    private final Map<String, KafkaProducer<byte[], byte[]>> openTransactions = new HashMap<>();
    private final Map<String, Background> backgrounds = new HashMap<>();

    private Scenario(String bootstrap, Properties connection) {
        this.bootstrap = bootstrap;
        this.connection = connection;
        Properties properties = new Properties();
        properties.putAll(connection);
        properties.put("bootstrap.servers", bootstrap);
        // A refresh of five minutes would hide a leader that has just moved.
        properties.put("metadata.max.age.ms", "1000");
        properties.put("retry.backoff.max.ms", "200");
        this.admin = Admin.create(properties);
    }

    public static void main(String[] arguments) throws Exception {
        // How a secured cluster is reached, where a file says so.
        Properties connection = new Properties();
        if (arguments.length > 1) {
            try (FileReader file = new FileReader(arguments[1], StandardCharsets.UTF_8)) {
                connection.load(file);
            }
        }
        Scenario scenario = new Scenario(arguments[0], connection);
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            System.out.println(scenario.answer(line));
            System.out.flush();
        }
        // The test process has gone: do not wait for deliveries to a cluster that goes with it.
        Runtime.getRuntime().halt(0);
    }

    private String answer(String line) {
        try {
            return "ok " + run(new Command(line));
        } catch (Exception failure) {
            Throwable cause = failure instanceof ExecutionException ? failure.getCause() : failure;
            return ("error " + cause.getClass().getSimpleName() + ": " + cause.getMessage()).replace('\n', ' ');
        }
    }

    private String run(Command command) throws Exception {
        return switch (command.verb) {
            case "create-topic" -> createTopic(command);
            case "delete-topic" -> deleteTopic(command.text("topic"));
            case "topic-id" -> "id=" + describe(command.text("topic")).topicId();
            case "describe-topic" -> describeTopic(command.text("topic"));
            case "add-partitions" -> addPartitions(command.text("topic"), command.number("total"));
            case "alter-configs" -> alterConfigs(command);
            case "topic-config" -> topicConfig(command.text("topic"), command.text("key"));
            case "produce-mixed" -> produceMixed(command);
            case "produce-large" -> produceLarge(command);
            case "produce-keyed" -> produceKeyed(command);
            case "produce-transactions" -> produceTransactions(command);
            case "transaction-open" -> transactionOpen(command);
            case "transaction-finish" -> transactionFinish(command);
            case "produce-start" -> produceStart(command);
            case "produce-stop" -> produceStop(command.text("id"));
            case "consume" -> consume(command);
            case "member-start" -> memberStart(command);
            case "member-stop" -> memberStop(command.text("id"));
            case "delete-records" -> deleteRecords(command);
            case "offsets" -> offsets(command);
            case "elect-leader" -> electLeader(command);
            case "reassign" -> reassign(command);
            case "reassign-start" -> reassignStart(command);
            case "reassign-cancel" -> reassignCancel(command);
            default -> throw new IllegalArgumentException("unknown verb " + command.verb);
        };
    }

    // ---- groups ----

    private KafkaConsumer<byte[], byte[]> consumer(Command command) {
        Properties properties = new Properties();
        properties.putAll(connection);
        properties.put("bootstrap.servers", bootstrap);
        properties.put("group.id", command.text("group"));
        properties.put("enable.auto.commit", "false");
        // A position that is missing, or beyond the log, must not be hidden.
        properties.put("auto.offset.reset", "none");
        properties.put("max.poll.records", "10");
        KafkaConsumer<byte[], byte[]> consumer =
            new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        consumer.subscribe(List.of(command.text("topic")));
        return consumer;
    }

    private String consume(Command command) {
        Map<Integer, long[]> read = new HashMap<>();
        int left = command.number("count");
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(command)) {
            long until = System.currentTimeMillis() + WAIT_MS;
            while (left > 0 && System.currentTimeMillis() < until) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200))) {
                    long[] row = read.computeIfAbsent(record.partition(), index -> new long[] {record.offset(), 0, 0});
                    row[1] = record.offset();
                    row[2]++;
                    left--;
                }
                consumer.commitSync();
            }
        }
        return "read=" + read.entrySet().stream()
            .map(each -> each.getKey() + ":" + each.getValue()[0] + ":" + each.getValue()[1] + ":" + each.getValue()[2])
            .collect(Collectors.joining(","));
    }

    private final Map<String, Thread> members = new HashMap<>();

    private String memberStart(Command command) throws Exception {
        KafkaConsumer<byte[], byte[]> consumer = consumer(command);
        AtomicLong assigned = new AtomicLong();
        Thread thread = new Thread(() -> {
            try (consumer) {
                while (!Thread.interrupted()) {
                    consumer.poll(Duration.ofMillis(100));
                    consumer.pause(consumer.assignment());
                    assigned.set(consumer.assignment().size());
                }
            } catch (org.apache.kafka.common.errors.InterruptException stopped) {
                Thread.interrupted();
            }
        });
        members.put(command.text("id"), thread);
        thread.start();
        await("the group has a member", () -> assigned.get() > 0);
        return "";
    }

    private String memberStop(String id) throws Exception {
        Thread thread = members.remove(id);
        thread.interrupt();
        thread.join();
        return "";
    }

    // ---- topics ----

    private String createTopic(Command command) throws Exception {
        String name = command.text("topic");
        NewTopic topic = command.has("assignment")
            ? new NewTopic(name, assignment(command.text("assignment")))
            : new NewTopic(name, Optional.of(command.number("partitions")),
                Optional.of((short) command.number("replicas")));
        admin.createTopics(List.of(topic.configs(command.configs()))).all().get();
        int partitions = command.has("assignment")
            ? assignment(command.text("assignment")).size() : command.number("partitions");
        awaitPartitions(name, partitions);
        return "id=" + describe(name).topicId();
    }

    /** `1:2,2:3`: partition 0 on brokers 1 and 2, partition 1 on 2 and 3. */
    private static Map<Integer, List<Integer>> assignment(String text) {
        Map<Integer, List<Integer>> assignment = new LinkedHashMap<>();
        for (String replicas : text.split(",")) {
            assignment.put(assignment.size(), integers(replicas, ":"));
        }
        return assignment;
    }

    private String deleteTopic(String topic) throws Exception {
        admin.deleteTopics(List.of(topic)).all().get();
        await("topic " + topic + " is gone", () -> {
            try {
                describe(topic);
                return false;
            } catch (ExecutionException gone) {
                return gone.getCause() instanceof UnknownTopicOrPartitionException;
            }
        });
        return "";
    }

    private TopicDescription describe(String topic) throws Exception {
        return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
    }

    private String describeTopic(String topic) throws Exception {
        List<String> leaders = new ArrayList<>();
        List<String> replicas = new ArrayList<>();
        List<String> inSync = new ArrayList<>();
        for (var partition : describe(topic).partitions()) {
            Node leader = partition.leader();
            leaders.add(leader == null || leader.isEmpty() ? "-1" : leader.idString());
            replicas.add(ids(partition.replicas()));
            inSync.add(ids(partition.isr()));
        }
        return "leaders=" + String.join(",", leaders) + " replicas=" + String.join(",", replicas)
            + " in-sync=" + String.join(",", inSync);
    }

    private static String ids(List<Node> nodes) {
        return nodes.stream().map(Node::idString).collect(Collectors.joining(":"));
    }

    private String addPartitions(String topic, int total) throws Exception {
        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(total))).all().get();
        awaitPartitions(topic, total);
        return "";
    }

    /** Until every partition has a leader that answers ListOffsets: metadata alone runs ahead of the brokers. */
    private void awaitPartitions(String topic, int partitions) throws Exception {
        await(topic + " has " + partitions + " partitions with working leaders", () -> {
            TopicDescription description = describe(topic);
            if (description.partitions().size() != partitions) {
                return false;
            }
            for (var partition : description.partitions()) {
                if (partition.leader() == null || partition.leader().isEmpty()) {
                    return false;
                }
            }
            return ends(topic, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED).size() == partitions;
        });
    }

    private String alterConfigs(Command command) throws Exception {
        ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, command.text("topic"));
        List<AlterConfigOp> operations = command.configs().entrySet().stream()
            .map(entry -> new AlterConfigOp(new ConfigEntry(entry.getKey(), entry.getValue()), AlterConfigOp.OpType.SET))
            .collect(Collectors.toList());
        admin.incrementalAlterConfigs(Map.of(topic, operations)).all().get();
        return "";
    }

    private String topicConfig(String topic, String key) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        return "value=" + admin.describeConfigs(List.of(resource)).all().get().get(resource).get(key).value();
    }

    // ---- records ----

    private String produceMixed(Command command) throws Exception {
        Random random = new Random(command.number("seed"));
        int count = command.number("count");
        int partitions = describe(command.text("topic")).partitions().size();
        int only = command.number("partition");
        boolean nulls = command.flag("nulls");
        Deliveries deliveries = new Deliveries();
        try (var producer = producer(command, Map.of())) {
            for (int index = 0; index < count; index++) {
                byte[] key = nulls && index % 5 == 0 ? null : bytes(random, 1 + random.nextInt(24));
                byte[] value = nulls && index % 7 == 3 ? null : bytes(random, command.number("value-bytes"));
                var record = new ProducerRecord<>(
                    command.text("topic"), only < 0 ? index % partitions : only, key, value);
                if (command.flag("headers")) {
                    for (int header = random.nextInt(4); header > 0; header--) {
                        record.headers().add("h" + header, header == 2 ? null : bytes(random, random.nextInt(40)));
                    }
                }
                deliveries.send(producer, record);
                // Batches of every size: without this a fast loop only makes full ones.
                if (random.nextInt(40) == 0) {
                    producer.flush();
                }
            }
            producer.flush();
        }
        return deliveries.answer();
    }

    private String produceLarge(Command command) throws Exception {
        Random random = new Random(command.number("seed"));
        Deliveries deliveries = new Deliveries();
        try (var producer = producer(command, Map.of())) {
            byte[] value = new byte[command.number("value-bytes")];
            random.nextBytes(value);
            deliveries.send(producer, new ProducerRecord<>(
                command.text("topic"), command.number("partition"), bytes(random, 8), value));
            producer.flush();
        }
        return deliveries.answer();
    }

    /**
     * Few keys written again and again, some of them ended by a tombstone, in rounds whose timestamps lie
     * `round-ms` apart: with `segment.ms` below that every round begins a segment, and all but the last
     * can be cleaned.
     */
    private String produceKeyed(Command command) throws Exception {
        Random random = new Random(command.number("seed"));
        long timestamp = System.currentTimeMillis() - (long) command.number("rounds") * command.number("round-ms");
        Deliveries deliveries = new Deliveries();
        try (var producer = producer(command, Map.of())) {
            for (int round = 0; round < command.number("rounds"); round++) {
                for (int key = 0; key < command.number("keys"); key++) {
                    if (random.nextInt(3) == 0) {
                        continue;
                    }
                    boolean tombstone = random.nextInt(100) < command.number("tombstone-percent");
                    byte[] value = tombstone ? null : bytes(random, command.number("value-bytes"));
                    deliveries.send(producer, new ProducerRecord<>(command.text("topic"), command.number("partition"),
                        timestamp, ("key-" + key).getBytes(StandardCharsets.UTF_8), value));
                    if (random.nextInt(6) == 0) {
                        producer.flush();
                    }
                }
                producer.flush();
                timestamp += command.number("round-ms");
            }
        }
        return deliveries.answer();
    }

    /** Several transactional producers take turns, so that their transactions lie inside one another. */
    private String produceTransactions(Command command) throws Exception {
        Random random = new Random(command.number("seed"));
        int partitions = describe(command.text("topic")).partitions().size();
        int only = command.number("partition");
        List<KafkaProducer<byte[], byte[]>> producers = new ArrayList<>();
        boolean[] open = new boolean[command.number("producers")];
        int started = 0, commits = 0, aborts = 0;
        Deliveries deliveries = new Deliveries();
        try {
            for (int index = 0; index < open.length; index++) {
                String id = command.text("topic") + "-" + command.text("seed") + "-" + index;
                producers.add(producer(command, Map.of("transactional.id", id)));
                producers.get(index).initTransactions();
            }
            while (commits + aborts < command.number("count")) {
                int index = random.nextInt(open.length);
                var producer = producers.get(index);
                if (!open[index]) {
                    if (started == command.number("count")) {
                        continue;
                    }
                    started++;
                    producer.beginTransaction();
                    open[index] = true;
                }
                for (int records = 1 + random.nextInt(5); records > 0; records--) {
                    int partition = only < 0 ? random.nextInt(partitions) : only;
                    deliveries.send(producer, new ProducerRecord<>(command.text("topic"), partition,
                        bytes(random, 8), bytes(random, command.number("value-bytes"))));
                }
                producer.flush();
                if (random.nextInt(3) == 0 || started == command.number("count")) {
                    open[index] = false;
                    if (random.nextInt(100) < command.number("abort-percent")) {
                        producer.abortTransaction();
                        aborts++;
                    } else {
                        producer.commitTransaction();
                        commits++;
                    }
                }
            }
        } finally {
            producers.forEach(producer -> producer.close(Duration.ZERO));
        }
        return deliveries.answer() + " commits=" + commits + " aborts=" + aborts;
    }

    private String transactionOpen(Command command) throws Exception {
        String id = command.text("id");
        Random random = new Random(command.number("seed"));
        var producer = openTransactions.get(id);
        if (producer == null) {
            producer = producer(command, Map.of("transactional.id", id, "transaction.timeout.ms", "600000"));
            producer.initTransactions();
            openTransactions.put(id, producer);
        }
        producer.beginTransaction();
        Deliveries deliveries = new Deliveries();
        for (int index = 0; index < command.number("count"); index++) {
            deliveries.send(producer, new ProducerRecord<>(command.text("topic"), command.number("partition"),
                bytes(random, 8), bytes(random, command.number("value-bytes"))));
        }
        producer.flush();
        return deliveries.answer();
    }

    private String transactionFinish(Command command) {
        var producer = openTransactions.remove(command.text("id"));
        try (producer) {
            if (command.flag("commit")) {
                producer.commitTransaction();
            } else {
                producer.abortTransaction();
            }
        }
        return "";
    }

    private String produceStart(Command command) throws Exception {
        Background background = new Background(command);
        if (backgrounds.putIfAbsent(command.text("id"), background) != null) {
            throw new IllegalStateException("a producer " + command.text("id") + " is running already");
        }
        background.start();
        return "";
    }

    private String produceStop(String id) throws Exception {
        Background background = backgrounds.remove(id);
        background.stopping = true;
        background.join();
        return background.deliveries.answer();
    }

    /** Produces at a steady rate until told to stop, through leader moves and broker restarts. */
    private final class Background extends Thread {
        private final Command command;
        private final int partitions;
        private final Deliveries deliveries = new Deliveries();
        private volatile boolean stopping;

        private Background(Command command) throws Exception {
            super("produce-" + command.text("id"));
            this.command = command;
            this.partitions = describe(command.text("topic")).partitions().size();
            setDaemon(true);
        }

        @Override
        public void run() {
            Random random = new Random(command.number("seed"));
            long interval = 1_000_000_000L / command.number("records-per-second");
            long next = System.nanoTime();
            int only = command.number("partition");
            try (var producer = producer(command, Map.of())) {
                for (int index = 0; !stopping; index++) {
                    int partition = only < 0 ? index % partitions : only;
                    deliveries.send(producer, new ProducerRecord<>(command.text("topic"), partition,
                        bytes(random, 8), bytes(random, command.number("value-bytes"))));
                    next += interval;
                    for (long rest = next - System.nanoTime(); rest > 0 && !stopping; rest = next - System.nanoTime()) {
                        LockSupport.parkNanos(rest);
                    }
                }
                producer.flush();
            } catch (RuntimeException failure) {
                deliveries.failure.compareAndSet(null, failure);
            }
        }
    }

    /** Counts what the brokers acknowledged; the first refusal is the answer of the command. */
    private static final class Deliveries {
        private final AtomicLong acknowledged = new AtomicLong();
        private final AtomicReference<Exception> failure = new AtomicReference<>();

        private void send(KafkaProducer<byte[], byte[]> producer, ProducerRecord<byte[], byte[]> record) {
            producer.send(record, (metadata, problem) -> {
                if (problem == null) {
                    acknowledged.incrementAndGet();
                } else {
                    failure.compareAndSet(null, problem);
                }
            });
        }

        private String answer() throws Exception {
            if (failure.get() != null) {
                throw failure.get();
            }
            return "records=" + acknowledged.get();
        }
    }

    private KafkaProducer<byte[], byte[]> producer(Command command, Map<String, String> more) {
        Properties properties = new Properties();
        properties.putAll(connection);
        properties.put("bootstrap.servers", bootstrap);
        properties.put("compression.type", command.textOr("codec", "none"));
        properties.put("enable.idempotence", command.textOr("idempotent", "true"));
        properties.put("acks", command.textOr("acks", "all"));
        properties.put("batch.size", command.textOr("batch-bytes", "16384"));
        properties.put("linger.ms", command.textOr("linger-ms", "5"));
        properties.put("max.request.size", "67108864");
        properties.put("buffer.memory", "134217728");
        properties.put("metadata.max.age.ms", "1000");
        properties.putAll(more);
        return new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer());
    }

    /** Half noise, half pattern: every codec finds something, none finds everything. */
    private static byte[] bytes(Random random, int length) {
        byte[] bytes = new byte[length];
        random.nextBytes(bytes);
        Arrays.fill(bytes, length / 2, length, (byte) ('a' + random.nextInt(26)));
        return bytes;
    }

    // ---- offsets and leaders ----

    private String deleteRecords(Command command) throws Exception {
        TopicPartition partition = new TopicPartition(command.text("topic"), command.number("partition"));
        var result = admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(command.offset("before"))));
        return "log-start-offset=" + result.lowWatermarks().get(partition).get().lowWatermark();
    }

    private String offsets(Command command) throws Exception {
        OffsetSpec spec = command.text("at").equals("start") ? OffsetSpec.earliest() : OffsetSpec.latest();
        IsolationLevel isolation = command.textOr("isolation", "read_uncommitted").equals("read_committed")
            ? IsolationLevel.READ_COMMITTED : IsolationLevel.READ_UNCOMMITTED;
        return "offsets=" + ends(command.text("topic"), spec, isolation).stream()
            .map(String::valueOf).collect(Collectors.joining(","));
    }

    private List<Long> ends(String topic, OffsetSpec spec, IsolationLevel isolation) throws Exception {
        Map<TopicPartition, OffsetSpec> asked = new LinkedHashMap<>();
        for (var partition : describe(topic).partitions()) {
            asked.put(new TopicPartition(topic, partition.partition()), spec);
        }
        var answers = admin.listOffsets(asked, new ListOffsetsOptions(isolation)).all().get(30, TimeUnit.SECONDS);
        List<Long> offsets = new ArrayList<>(Collections.nCopies(asked.size(), -1L));
        answers.forEach((partition, info) -> offsets.set(partition.partition(), info.offset()));
        return offsets;
    }

    private String electLeader(Command command) throws Exception {
        TopicPartition partition = new TopicPartition(command.text("topic"), command.number("partition"));
        ElectionType type = ElectionType.valueOf(command.text("type").toUpperCase());
        var outcome = admin.electLeaders(type, Set.of(partition)).partitions().get().get(partition);
        if (outcome.isPresent() && !(outcome.get() instanceof ElectionNotNeededException)) {
            throw (Exception) outcome.get();
        }
        await(partition + " has a leader", () -> {
            Node leader = describe(command.text("topic")).partitions().get(command.number("partition")).leader();
            return leader != null && !leader.isEmpty();
        });
        return "";
    }

    private String reassign(Command command) throws Exception {
        TopicPartition partition = new TopicPartition(command.text("topic"), command.number("partition"));
        List<Integer> replicas = integers(command.text("replicas"), ":");
        admin.alterPartitionReassignments(
            Map.of(partition, Optional.of(new NewPartitionReassignment(replicas)))).all().get();
        await(partition + " is on " + replicas, () -> {
            var info = describe(command.text("topic")).partitions().get(command.number("partition"));
            Set<Integer> inSync = info.isr().stream().map(Node::id).collect(Collectors.toSet());
            return admin.listPartitionReassignments(Set.of(partition)).reassignments().get().isEmpty()
                && inSync.equals(new HashSet<>(replicas));
        });
        return "";
    }

    private String reassignStart(Command command) throws Exception {
        TopicPartition partition = new TopicPartition(command.text("topic"), command.number("partition"));
        List<Integer> replicas = integers(command.text("replicas"), ":");
        admin.alterPartitionReassignments(
            Map.of(partition, Optional.of(new NewPartitionReassignment(replicas)))).all().get();
        return "";
    }

    /** Ends all reassignments of a topic that are under way. */
    private String reassignCancel(Command command) throws Exception {
        Set<TopicPartition> all = new HashSet<>();
        for (var partition : describe(command.text("topic")).partitions()) {
            all.add(new TopicPartition(command.text("topic"), partition.partition()));
        }
        int cancelled = 0;
        for (TopicPartition partition : admin.listPartitionReassignments(all).reassignments().get().keySet()) {
            try {
                admin.alterPartitionReassignments(Map.of(partition, Optional.empty())).all().get();
                cancelled++;
            } catch (ExecutionException over) {
                if (!(over.getCause() instanceof NoReassignmentInProgressException)) {
                    throw over;
                }
            }
        }
        return "cancelled=" + cancelled;
    }

    private static List<Integer> integers(String text, String separator) {
        return Arrays.stream(text.split(separator)).map(Integer::valueOf).collect(Collectors.toList());
    }

    // ---- waiting and reading commands ----

    private interface Condition {
        boolean holds() throws Exception;
    }

    /** Asks again until it holds; a refusal on the way counts as "not yet" and is named if it stays. */
    private static void await(String what, Condition condition) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(WAIT_MS);
        Exception last = null;
        while (System.nanoTime() < deadline) {
            try {
                if (condition.holds()) {
                    return;
                }
            } catch (ExecutionException | TimeoutException notYet) {
                last = notYet;
            }
            Thread.sleep(50);
        }
        throw new IllegalStateException("waited " + WAIT_MS + " ms in vain until " + what, last);
    }

    private static final class Command {
        private final String verb;
        private final Map<String, String> fields = new LinkedHashMap<>();

        private Command(String line) {
            String[] words = line.trim().split(" +");
            verb = words[0];
            for (int index = 1; index < words.length; index++) {
                int equals = words[index].indexOf('=');
                fields.put(words[index].substring(0, equals), words[index].substring(equals + 1));
            }
        }

        private boolean has(String name) {
            return fields.containsKey(name);
        }

        private String text(String name) {
            String value = fields.get(name);
            if (value == null) {
                throw new IllegalArgumentException(verb + " needs " + name + "=");
            }
            return value;
        }

        private String textOr(String name, String otherwise) {
            return fields.getOrDefault(name, otherwise);
        }

        private int number(String name) {
            return Integer.parseInt(text(name));
        }

        private long offset(String name) {
            return Long.parseLong(text(name));
        }

        private boolean flag(String name) {
            return Boolean.parseBoolean(text(name));
        }

        /** Every `config.NAME=value` of the command. */
        private Map<String, String> configs() {
            Map<String, String> configs = new HashMap<>();
            fields.forEach((name, value) -> {
                if (name.startsWith("config.")) {
                    configs.put(name.substring("config.".length()), value);
                }
            });
            return configs;
        }
    }
}
