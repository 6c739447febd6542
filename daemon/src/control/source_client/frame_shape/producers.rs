//! Layouts of what brokers answer about producers: their ids, their open transactions, their end; about groups, and
//! about their log directories.
//!
//! Only tables; what they mean is said where they are walked.

use super::{Field, Layout, Shaped, field};
use kafka_protocol::messages::{
    DescribeGroupsRequest, DescribeLogDirsRequest, DescribeProducersRequest, InitProducerIdRequest,
    ListTransactionsRequest, WriteTxnMarkersRequest,
};
use kafka_protocol::protocol::VersionRange;

impl Shaped for InitProducerIdRequest {
    const NAME: &'static str = "InitProducerId";
    /// Later ones differ in what they say of transactions, and none is ever asked for here.
    const UNDERSTOOD: VersionRange = VersionRange { min: 0, max: 4 };
    const FLEXIBLE_FROM: i16 = 2;
    const ANSWER: &'static [Field] = &[field(0, Layout::Fixed(16))];
}

/// ref: KIP-664
impl Shaped for DescribeProducersRequest {
    const NAME: &'static str = "DescribeProducers";
    const UNDERSTOOD: VersionRange = VersionRange { min: 0, max: 0 };
    const FLEXIBLE_FROM: i16 = 0;
    const ANSWER: &'static [Field] = &[
        field(0, Layout::Fixed(4)),
        field(
            0,
            Layout::Array(&[
                field(0, Layout::Text),
                field(
                    0,
                    Layout::Array(&[
                        field(0, Layout::Fixed(6)),
                        field(0, Layout::Text),
                        field(0, Layout::Array(&[field(0, Layout::Fixed(36))])),
                    ]),
                ),
            ]),
        ),
    ];
}

/// ref: KIP-664
impl Shaped for ListTransactionsRequest {
    const NAME: &'static str = "ListTransactions";
    /// Later ones can filter by more.
    const UNDERSTOOD: VersionRange = VersionRange { min: 0, max: 0 };
    const FLEXIBLE_FROM: i16 = 0;
    const ANSWER: &'static [Field] = &[
        field(0, Layout::Fixed(6)),
        field(0, Layout::Texts),
        field(
            0,
            Layout::Array(&[field(0, Layout::Text), field(0, Layout::Fixed(8)), field(0, Layout::Text)]),
        ),
    ];
}

impl Shaped for DescribeGroupsRequest {
    const NAME: &'static str = "DescribeGroups";
    /// Later ones differ in tags and texts only.
    const UNDERSTOOD: VersionRange = VersionRange { min: 0, max: 4 };
    const FLEXIBLE_FROM: i16 = 5;
    const ANSWER: &'static [Field] = &[
        field(1, Layout::Fixed(4)),
        field(
            0,
            Layout::Array(&[
                field(0, Layout::Fixed(2)),
                field(0, Layout::Text),
                field(0, Layout::Text),
                field(0, Layout::Text),
                field(0, Layout::Text),
                field(
                    0,
                    Layout::Array(&[
                        field(0, Layout::Text),
                        field(4, Layout::Text),
                        field(0, Layout::Text),
                        field(0, Layout::Text),
                        field(0, Layout::Bytes),
                        field(0, Layout::Bytes),
                    ]),
                ),
                field(3, Layout::Fixed(4)),
            ]),
        ),
    ];
}

/// ref: KIP-113, KIP-827
impl Shaped for DescribeLogDirsRequest {
    const NAME: &'static str = "DescribeLogDirs";
    const UNDERSTOOD: VersionRange = VersionRange { min: 1, max: 4 };
    const FLEXIBLE_FROM: i16 = 2;
    const ANSWER: &'static [Field] = &[
        field(0, Layout::Fixed(4)),
        field(3, Layout::Fixed(2)),
        field(
            0,
            Layout::Array(&[
                field(0, Layout::Fixed(2)),
                field(0, Layout::Text),
                field(
                    0,
                    Layout::Array(&[
                        field(0, Layout::Text),
                        field(0, Layout::Array(&[field(0, Layout::Fixed(21))])),
                    ]),
                ),
                field(4, Layout::Fixed(16)),
            ]),
        ),
    ];
}

impl Shaped for WriteTxnMarkersRequest {
    const NAME: &'static str = "WriteTxnMarkers";
    const UNDERSTOOD: VersionRange = VersionRange { min: 1, max: 1 };
    const FLEXIBLE_FROM: i16 = 1;
    const ANSWER: &'static [Field] = &[field(
        0,
        Layout::Array(&[
            field(0, Layout::Fixed(8)),
            field(
                0,
                Layout::Array(&[
                    field(0, Layout::Text),
                    field(0, Layout::Array(&[field(0, Layout::Fixed(6))])),
                ]),
            ),
        ]),
    )];
}

#[cfg(test)]
mod tests {
    use super::super::tests::proves;
    use super::*;
    use kafka_protocol::messages::{
        DescribeLogDirsResponse, DescribeProducersResponse, InitProducerIdResponse, ListTransactionsResponse,
        TopicName, WriteTxnMarkersResponse, describe_log_dirs_response, describe_producers_response,
        write_txn_markers_response,
    };
    use kafka_protocol::protocol::StrBytes;

    #[test]
    fn answers_about_producers_have_their_exact_layout() {
        let name = || TopicName(StrBytes::from_static_str("orders"));
        proves::<InitProducerIdRequest>(&InitProducerIdResponse::default(), 0x7f);
        let sizes = describe_log_dirs_response::DescribeLogDirsTopic::default()
            .with_name(name())
            .with_partitions(vec![Default::default(); 2]);
        let directory =
            describe_log_dirs_response::DescribeLogDirsResult::default().with_topics(vec![sizes; 2]);
        proves::<DescribeLogDirsRequest>(
            &DescribeLogDirsResponse::default().with_results(vec![directory]),
            0x7f,
        );
        let partition = describe_producers_response::PartitionResponse::default()
            .with_error_message(Some(StrBytes::from_static_str("why")))
            .with_active_producers(vec![Default::default(); 2]);
        let topic = describe_producers_response::TopicResponse::default()
            .with_name(name())
            .with_partitions(vec![partition; 2]);
        let answer = DescribeProducersResponse::default().with_topics(vec![topic; 2]);
        proves::<DescribeProducersRequest>(&answer, 0x7f);
        let answer = ListTransactionsResponse::default()
            .with_unknown_state_filters(vec![StrBytes::from_static_str("none"); 2])
            .with_transaction_states(vec![Default::default(); 2]);
        proves::<ListTransactionsRequest>(&answer, 0x7f);
        let topic = write_txn_markers_response::WritableTxnMarkerTopicResult::default()
            .with_name(name())
            .with_partitions(vec![Default::default(); 2]);
        let marker =
            write_txn_markers_response::WritableTxnMarkerResult::default().with_topics(vec![topic; 2]);
        let answer = WriteTxnMarkersResponse::default().with_markers(vec![marker; 2]);
        proves::<WriteTxnMarkersRequest>(&answer, 0x7f);
    }
}
