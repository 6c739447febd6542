//! Every layout against what the library writes, and against what no controller would.

use super::super::tests::{proves, proves_versions};
use super::super::{METADATA_FETCH_VERSION, ShapeError, check};
use super::*;
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_response::{
    EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, StrBytes};

fn text() -> StrBytes {
    StrBytes::from_static_str("orders")
}

fn name() -> TopicName {
    TopicName(text())
}

fn metadata_fetch() -> FetchResponse {
    let partition = PartitionData::default()
        .with_records(Some(Bytes::from_static(b"records")))
        .with_diverging_epoch(EpochEndOffset::default().with_epoch(3).with_end_offset(9))
        .with_current_leader(LeaderIdAndEpoch::default().with_leader_id(BrokerId(1)).with_leader_epoch(4));
    let topic = FetchableTopicResponse::default().with_partitions(vec![partition.clone(), partition]);
    let node = NodeEndpoint::default().with_host(text()).with_port(9);
    FetchResponse::default().with_responses(vec![topic]).with_node_endpoints(vec![node.clone(), node])
}

#[test]
fn membership_answers_have_their_exact_layout() {
    let versions = VersionRange { min: METADATA_FETCH_VERSION, max: METADATA_FETCH_VERSION };
    proves_versions::<FetchRequest>(&metadata_fetch(), 0x7f, versions);
    let broker = describe_cluster_response::DescribeClusterBroker::default().with_host(text());
    let answer = DescribeClusterResponse::default().with_cluster_id(text()).with_brokers(vec![broker; 2]);
    proves::<DescribeClusterRequest>(&answer, 0x7f);
    let partition = fetch_snapshot_response::PartitionSnapshot::default()
        .with_unaligned_records(Bytes::from_static(b"records"))
        .with_current_leader(fetch_snapshot_response::LeaderIdAndEpoch::default().with_leader_epoch(2));
    let topic = fetch_snapshot_response::TopicSnapshot::default()
        .with_name(name())
        .with_partitions(vec![partition; 2]);
    let node = fetch_snapshot_response::NodeEndpoint::default().with_host(text());
    let answer = FetchSnapshotResponse::default().with_topics(vec![topic]).with_node_endpoints(vec![node; 2]);
    proves::<FetchSnapshotRequest>(&answer, 0x7f);
    proves::<BrokerRegistrationRequest>(&BrokerRegistrationResponse::default(), 0x7f);
    proves::<BrokerHeartbeatRequest>(&BrokerHeartbeatResponse::default(), 0x7f);
    let answer = UnregisterBrokerResponse::default().with_error_message(Some(text()));
    proves::<UnregisterBrokerRequest>(&answer, 0x7f);
    proves::<AllocateProducerIdsRequest>(&AllocateProducerIdsResponse::default(), 0x7f);
}

#[test]
fn topic_answers_have_their_exact_layout() {
    let config =
        create_topics_response::CreatableTopicConfigs::default().with_name(text()).with_value(Some(text()));
    let topic = create_topics_response::CreatableTopicResult::default()
        .with_name(name())
        .with_topic_config_error_code(29)
        .with_configs(Some(vec![config; 2]));
    proves::<CreateTopicsRequest>(&CreateTopicsResponse::default().with_topics(vec![topic; 2]), 0x7f);
    let topic = delete_topics_response::DeletableTopicResult::default().with_name(Some(name()));
    proves::<DeleteTopicsRequest>(&DeleteTopicsResponse::default().with_responses(vec![topic; 2]), 0x7f);
    let result = create_partitions_response::CreatePartitionsTopicResult::default().with_name(name());
    let answer = CreatePartitionsResponse::default().with_results(vec![result; 2]);
    proves::<CreatePartitionsRequest>(&answer, 0x7f);
    let resource = incremental_alter_configs_response::AlterConfigsResourceResponse::default()
        .with_resource_name(text());
    let answer = IncrementalAlterConfigsResponse::default().with_responses(vec![resource; 2]);
    proves::<IncrementalAlterConfigsRequest>(&answer, 0x7f);
    let synonym = describe_configs_response::DescribeConfigsSynonym::default().with_name(text());
    let config = describe_configs_response::DescribeConfigsResourceResult::default()
        .with_name(text())
        .with_synonyms(vec![synonym; 2]);
    let result = describe_configs_response::DescribeConfigsResult::default().with_configs(vec![config; 2]);
    let answer = DescribeConfigsResponse::default().with_results(vec![result; 2]);
    proves::<DescribeConfigsRequest>(&answer, 0x7f);
}

#[test]
fn answers_about_rights_have_their_exact_layout() {
    let acl = describe_acls_response::AclDescription::default().with_principal(text()).with_host(text());
    let resource = describe_acls_response::DescribeAclsResource::default()
        .with_resource_name(text())
        .with_acls(vec![acl; 2]);
    let answer =
        DescribeAclsResponse::default().with_error_message(Some(text())).with_resources(vec![resource; 2]);
    proves::<DescribeAclsRequest>(&answer, 0x7f);
}

#[test]
fn partition_answers_have_their_exact_layout() {
    let partition = alter_partition_response::PartitionData::default().with_isr(vec![BrokerId(1); 3]);
    let topic = alter_partition_response::TopicData::default().with_partitions(vec![partition; 2]);
    proves::<AlterPartitionRequest>(&AlterPartitionResponse::default().with_topics(vec![topic; 2]), 0x7f);
    let partition = alter_partition_reassignments_response::ReassignablePartitionResponse::default();
    let topic = alter_partition_reassignments_response::ReassignableTopicResponse::default()
        .with_name(name())
        .with_partitions(vec![partition; 2]);
    let answer = AlterPartitionReassignmentsResponse::default().with_responses(vec![topic; 2]);
    proves::<AlterPartitionReassignmentsRequest>(&answer, 0x7f);
    let result = elect_leaders_response::ReplicaElectionResult::default()
        .with_topic(name())
        .with_partition_result(vec![Default::default(); 2]);
    let answer = ElectLeadersResponse::default().with_replica_election_results(vec![result; 2]);
    proves::<ElectLeadersRequest>(&answer, 0x7f);
}

#[test]
fn a_tag_that_is_longer_than_what_it_holds_is_refused() {
    let mut bytes = BytesMut::new();
    metadata_fetch().encode(&mut bytes, METADATA_FETCH_VERSION).unwrap();
    let checked = |bytes: &[u8]| check::<FetchRequest>(bytes, METADATA_FETCH_VERSION, false);
    assert_eq!(checked(&bytes), Ok(()));
    // The tag of the diverging epoch: tag 0, 13 bytes, epoch 3.
    let at = bytes.windows(6).position(|six| six == [0, 13, 0, 0, 0, 3]).expect("it is there");
    bytes[at + 1] = 14;
    assert_eq!(checked(&bytes), Err(ShapeError::Length { position: at + 2, value: 14 }));
    // An array of nodes that claims two hundred million of them.
    let mut hostile = vec![0; 10];
    hostile.extend([1, 1, 0, 5, 0xff, 0xff, 0xff, 0x7f, 0]);
    assert!(matches!(checked(&hostile), Err(ShapeError::Length { .. })));
}
