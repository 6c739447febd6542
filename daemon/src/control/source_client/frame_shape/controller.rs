//! Layouts of what a controller answers: membership, topics, partitions, configs.
//!
//! Only tables; what they mean is said where they are walked.

use super::{Field, Layout, Shaped, field};
use kafka_protocol::messages::{
    AllocateProducerIdsRequest, AlterPartitionReassignmentsRequest, AlterPartitionRequest,
    BrokerHeartbeatRequest, BrokerRegistrationRequest, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteTopicsRequest, DescribeAclsRequest, DescribeClusterRequest, DescribeConfigsRequest,
    ElectLeadersRequest, FetchSnapshotRequest, IncrementalAlterConfigsRequest, UnregisterBrokerRequest,
};
use kafka_protocol::protocol::VersionRange;

const fn versions(min: i16, max: i16) -> VersionRange {
    VersionRange { min, max }
}

impl Shaped for DescribeClusterRequest {
    const NAME: &'static str = "DescribeCluster";
    /// Version 0 cannot ask a controller for controllers. ref: KIP-919
    const UNDERSTOOD: VersionRange = versions(1, 2);
    const FLEXIBLE_FROM: i16 = 0;
    const ANSWER: &'static [Field] = &[
        field(0, Layout::Fixed(6)),
        field(0, Layout::Text),
        field(1, Layout::Fixed(1)),
        field(0, Layout::Text),
        field(0, Layout::Fixed(4)),
        field(
            0,
            Layout::Array(&[
                field(0, Layout::Fixed(4)),
                field(0, Layout::Text),
                field(0, Layout::Fixed(4)),
                field(0, Layout::Text),
                field(2, Layout::Fixed(1)),
            ]),
        ),
        field(0, Layout::Fixed(4)),
    ];
}

impl Shaped for FetchSnapshotRequest {
    const NAME: &'static str = "FetchSnapshot";
    const UNDERSTOOD: VersionRange = versions(1, 1);
    const FLEXIBLE_FROM: i16 = 0;
    const ANSWER: &'static [Field] = &[
        field(0, Layout::Fixed(6)),
        field(
            0,
            Layout::Array(&[
                field(0, Layout::Text),
                field(
                    0,
                    Layout::Array(&[
                        field(0, Layout::Fixed(6)),
                        field(0, Layout::Structure(&[field(0, Layout::Fixed(12))])),
                        field(0, Layout::Fixed(16)),
                        field(0, Layout::Bytes),
                        field(0, Layout::Tagged(0, &Layout::Structure(&[field(0, Layout::Fixed(8))]))),
                    ]),
                ),
            ]),
        ),
        field(
            1,
            Layout::Tagged(
                0,
                &Layout::Array(&[
                    field(0, Layout::Fixed(4)),
                    field(0, Layout::Text),
                    field(0, Layout::Fixed(2)),
                ]),
            ),
        ),
    ];
}

impl Shaped for BrokerRegistrationRequest {
    const NAME: &'static str = "BrokerRegistration";
    /// Older versions cannot say which epoch we had before. ref: KIP-966
    const UNDERSTOOD: VersionRange = versions(3, 4);
    const FLEXIBLE_FROM: i16 = 0;
    const ANSWER: &'static [Field] = &[field(0, Layout::Fixed(14))];
}

impl Shaped for BrokerHeartbeatRequest {
    const NAME: &'static str = "BrokerHeartbeat";
    /// Version 2 has one more tag in the request: the cordoned directories.
    const UNDERSTOOD: VersionRange = versions(1, 2);
    const FLEXIBLE_FROM: i16 = 0;
    const ANSWER: &'static [Field] = &[field(0, Layout::Fixed(9))];

    fn body_version(version: i16) -> i16 {
        version.min(1)
    }
}

impl Shaped for UnregisterBrokerRequest {
    const NAME: &'static str = "UnregisterBroker";
    const UNDERSTOOD: VersionRange = versions(0, 0);
    const FLEXIBLE_FROM: i16 = 0;
    const ANSWER: &'static [Field] = &[field(0, Layout::Fixed(6)), field(0, Layout::Text)];
}

impl Shaped for AllocateProducerIdsRequest {
    const NAME: &'static str = "AllocateProducerIds";
    const UNDERSTOOD: VersionRange = versions(0, 0);
    const FLEXIBLE_FROM: i16 = 0;
    const ANSWER: &'static [Field] = &[field(0, Layout::Fixed(18))];
}

impl Shaped for CreateTopicsRequest {
    const NAME: &'static str = "CreateTopics";
    /// Older versions do not tell the id of the topic.
    const UNDERSTOOD: VersionRange = versions(7, 7);
    const FLEXIBLE_FROM: i16 = 5;
    const ANSWER: &'static [Field] = &[
        field(2, Layout::Fixed(4)),
        field(
            0,
            Layout::Array(&[
                field(0, Layout::Text),
                field(7, Layout::Fixed(16)),
                field(0, Layout::Fixed(2)),
                field(1, Layout::Text),
                field(5, Layout::Fixed(6)),
                field(
                    5,
                    Layout::Array(&[
                        field(0, Layout::Text),
                        field(0, Layout::Text),
                        field(0, Layout::Fixed(3)),
                    ]),
                ),
                field(5, Layout::Tagged(0, &Layout::Fixed(2))),
            ]),
        ),
    ];
}

impl Shaped for DeleteTopicsRequest {
    const NAME: &'static str = "DeleteTopics";
    /// Older versions cannot name a topic by its id.
    const UNDERSTOOD: VersionRange = versions(6, 6);
    const FLEXIBLE_FROM: i16 = 4;
    const ANSWER: &'static [Field] = &[
        field(0, Layout::Fixed(4)),
        field(
            0,
            Layout::Array(&[
                field(0, Layout::Text),
                field(6, Layout::Fixed(16)),
                field(0, Layout::Fixed(2)),
                field(5, Layout::Text),
            ]),
        ),
    ];
}

impl Shaped for CreatePartitionsRequest {
    const NAME: &'static str = "CreatePartitions";
    const UNDERSTOOD: VersionRange = versions(0, 3);
    const FLEXIBLE_FROM: i16 = 2;
    const ANSWER: &'static [Field] = &[
        field(0, Layout::Fixed(4)),
        field(
            0,
            Layout::Array(&[field(0, Layout::Text), field(0, Layout::Fixed(2)), field(0, Layout::Text)]),
        ),
    ];
}

impl Shaped for AlterPartitionRequest {
    const NAME: &'static str = "AlterPartition";
    /// Version 3 names the epochs of the members, which is what keeps a stale one out. ref: KIP-903
    const UNDERSTOOD: VersionRange = versions(3, 3);
    const FLEXIBLE_FROM: i16 = 0;
    const ANSWER: &'static [Field] = &[
        field(0, Layout::Fixed(6)),
        field(
            0,
            Layout::Array(&[
                field(2, Layout::Fixed(16)),
                field(
                    0,
                    Layout::Array(&[
                        field(0, Layout::Fixed(14)),
                        field(0, Layout::Numbers(4)),
                        field(1, Layout::Fixed(1)),
                        field(0, Layout::Fixed(4)),
                    ]),
                ),
            ]),
        ),
    ];
}

impl Shaped for AlterPartitionReassignmentsRequest {
    const NAME: &'static str = "AlterPartitionReassignments";
    const UNDERSTOOD: VersionRange = versions(0, 1);
    const FLEXIBLE_FROM: i16 = 0;
    const ANSWER: &'static [Field] = &[
        field(0, Layout::Fixed(4)),
        field(1, Layout::Fixed(1)),
        field(0, Layout::Fixed(2)),
        field(0, Layout::Text),
        field(
            0,
            Layout::Array(&[
                field(0, Layout::Text),
                field(
                    0,
                    Layout::Array(&[
                        field(0, Layout::Fixed(4)),
                        field(0, Layout::Fixed(2)),
                        field(0, Layout::Text),
                    ]),
                ),
            ]),
        ),
    ];
}

impl Shaped for ElectLeadersRequest {
    const NAME: &'static str = "ElectLeaders";
    /// Version 0 knows no type of election.
    const UNDERSTOOD: VersionRange = versions(1, 2);
    const FLEXIBLE_FROM: i16 = 2;
    const ANSWER: &'static [Field] = &[
        field(0, Layout::Fixed(4)),
        field(1, Layout::Fixed(2)),
        field(
            0,
            Layout::Array(&[
                field(0, Layout::Text),
                field(
                    0,
                    Layout::Array(&[
                        field(0, Layout::Fixed(4)),
                        field(0, Layout::Fixed(2)),
                        field(0, Layout::Text),
                    ]),
                ),
            ]),
        ),
    ];
}

impl Shaped for IncrementalAlterConfigsRequest {
    const NAME: &'static str = "IncrementalAlterConfigs";
    const UNDERSTOOD: VersionRange = versions(0, 1);
    const FLEXIBLE_FROM: i16 = 1;
    const ANSWER: &'static [Field] = &[
        field(0, Layout::Fixed(4)),
        field(
            0,
            Layout::Array(&[
                field(0, Layout::Fixed(2)),
                field(0, Layout::Text),
                field(0, Layout::Fixed(1)),
                field(0, Layout::Text),
            ]),
        ),
    ];
}

impl Shaped for DescribeConfigsRequest {
    const NAME: &'static str = "DescribeConfigs";
    const UNDERSTOOD: VersionRange = versions(1, 4);
    const FLEXIBLE_FROM: i16 = 4;
    const ANSWER: &'static [Field] = &[
        field(0, Layout::Fixed(4)),
        field(
            0,
            Layout::Array(&[
                field(0, Layout::Fixed(2)),
                field(0, Layout::Text),
                field(0, Layout::Fixed(1)),
                field(0, Layout::Text),
                field(
                    0,
                    Layout::Array(&[
                        field(0, Layout::Text),
                        field(0, Layout::Text),
                        field(0, Layout::Fixed(1)),
                        field(1, Layout::Fixed(1)),
                        field(0, Layout::Fixed(1)),
                        field(
                            1,
                            Layout::Array(&[
                                field(1, Layout::Text),
                                field(1, Layout::Text),
                                field(1, Layout::Fixed(1)),
                            ]),
                        ),
                        field(3, Layout::Fixed(1)),
                        field(3, Layout::Text),
                    ]),
                ),
            ]),
        ),
    ];
}

impl Shaped for DescribeAclsRequest {
    const NAME: &'static str = "DescribeAcls";
    const UNDERSTOOD: VersionRange = versions(2, 3);
    const FLEXIBLE_FROM: i16 = 2;
    const ANSWER: &'static [Field] = &[
        field(0, Layout::Fixed(6)),
        field(0, Layout::Text),
        field(
            0,
            Layout::Array(&[
                field(0, Layout::Fixed(1)),
                field(0, Layout::Text),
                field(1, Layout::Fixed(1)),
                field(
                    0,
                    Layout::Array(&[
                        field(0, Layout::Text),
                        field(0, Layout::Text),
                        field(0, Layout::Fixed(2)),
                    ]),
                ),
            ]),
        ),
    ];
}

#[cfg(test)]
mod tests;
