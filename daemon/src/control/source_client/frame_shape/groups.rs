//! Layouts of what brokers answer about consumer groups.
//!
//! Only tables; what they mean is said where they are walked.

use super::{Field, Layout, Shaped, field};
use kafka_protocol::messages::{
    DeleteGroupsRequest, FindCoordinatorRequest, ListGroupsRequest, OffsetCommitRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::VersionRange;
use twinlog_sync::wire::offset_fetch;

impl Shaped for ListGroupsRequest {
    const NAME: &'static str = "ListGroups";
    /// Before version 4 nobody says whether a group has members. ref: KIP-518
    const UNDERSTOOD: VersionRange = VersionRange { min: 4, max: 5 };
    const FLEXIBLE_FROM: i16 = 3;
    const ANSWER: &'static [Field] = &[
        field(1, Layout::Fixed(4)),
        field(0, Layout::Fixed(2)),
        field(
            0,
            Layout::Array(&[
                field(0, Layout::Text),
                field(0, Layout::Text),
                field(4, Layout::Text),
                field(5, Layout::Text),
            ]),
        ),
    ];
}

/// ref: KIP-699
impl Shaped for FindCoordinatorRequest {
    const NAME: &'static str = "FindCoordinator";
    const UNDERSTOOD: VersionRange = VersionRange { min: 4, max: 6 };
    const FLEXIBLE_FROM: i16 = 3;
    const ANSWER: &'static [Field] = &[
        field(1, Layout::Fixed(4)),
        field(
            4,
            Layout::Array(&[
                field(4, Layout::Text),
                field(4, Layout::Fixed(4)),
                field(4, Layout::Text),
                field(4, Layout::Fixed(6)),
                field(4, Layout::Text),
            ]),
        ),
    ];
}

/// ref: KIP-709
impl Shaped for OffsetFetchRequest {
    const NAME: &'static str = "OffsetFetch";
    const UNDERSTOOD: VersionRange =
        VersionRange { min: offset_fetch::FIRST_VERSION, max: offset_fetch::LAST_VERSION };
    const FLEXIBLE_FROM: i16 = 6;
    const ANSWER: &'static [Field] = &[
        field(3, Layout::Fixed(4)),
        field(
            8,
            Layout::Array(&[
                field(8, Layout::Text),
                field(
                    8,
                    Layout::Array(&[
                        field(8, Layout::Text),
                        field(
                            8,
                            Layout::Array(&[
                                field(8, Layout::Fixed(16)),
                                field(8, Layout::Text),
                                field(8, Layout::Fixed(2)),
                            ]),
                        ),
                    ]),
                ),
                field(8, Layout::Fixed(2)),
            ]),
        ),
    ];
}

impl Shaped for OffsetCommitRequest {
    const NAME: &'static str = "OffsetCommit";
    /// Before version 6 there is no leader epoch, and none is what is written.
    const UNDERSTOOD: VersionRange = VersionRange { min: 2, max: 9 };
    const FLEXIBLE_FROM: i16 = 8;
    const ANSWER: &'static [Field] = &[
        field(3, Layout::Fixed(4)),
        field(
            0,
            Layout::Array(&[field(0, Layout::Text), field(0, Layout::Array(&[field(0, Layout::Fixed(6))]))]),
        ),
    ];
}

impl Shaped for DeleteGroupsRequest {
    const NAME: &'static str = "DeleteGroups";
    const UNDERSTOOD: VersionRange = VersionRange { min: 0, max: 2 };
    const FLEXIBLE_FROM: i16 = 2;
    const ANSWER: &'static [Field] = &[
        field(0, Layout::Fixed(4)),
        field(0, Layout::Array(&[field(0, Layout::Text), field(0, Layout::Fixed(2))])),
    ];
}

#[cfg(test)]
mod tests {
    use super::super::tests::proves;
    use super::*;
    use kafka_protocol::messages::find_coordinator_response::Coordinator;
    use kafka_protocol::messages::list_groups_response::ListedGroup;
    use kafka_protocol::messages::offset_commit_response::OffsetCommitResponseTopic;
    use kafka_protocol::messages::offset_fetch_response::{
        OffsetFetchResponseGroup, OffsetFetchResponseTopics,
    };
    use kafka_protocol::messages::{
        DeleteGroupsResponse, FindCoordinatorResponse, GroupId, ListGroupsResponse, OffsetCommitResponse,
        OffsetFetchResponse, TopicName,
    };
    use kafka_protocol::protocol::StrBytes;

    #[test]
    fn answers_about_groups_have_their_exact_layout() {
        let text = StrBytes::from_static_str;
        let group = ListedGroup::default().with_group_id(GroupId(text("app"))).with_protocol_type(text("c"));
        proves::<ListGroupsRequest>(&ListGroupsResponse::default().with_groups(vec![group; 2]), 0x7f);
        let found = Coordinator::default().with_key(text("app")).with_error_message(Some(text("why")));
        let answer = FindCoordinatorResponse::default().with_coordinators(vec![found; 2]);
        proves::<FindCoordinatorRequest>(&answer, 0x7f);
        let topic = OffsetFetchResponseTopics::default()
            .with_name(TopicName(text("orders")))
            .with_partitions(vec![Default::default(); 2]);
        let group = OffsetFetchResponseGroup::default().with_topics(vec![topic; 2]);
        proves::<OffsetFetchRequest>(&OffsetFetchResponse::default().with_groups(vec![group; 2]), 0x7f);
        let topic = OffsetCommitResponseTopic::default()
            .with_name(TopicName(text("orders")))
            .with_partitions(vec![Default::default(); 2]);
        proves::<OffsetCommitRequest>(&OffsetCommitResponse::default().with_topics(vec![topic; 2]), 0x7f);
        let answer = DeleteGroupsResponse::default().with_results(vec![Default::default(); 2]);
        proves::<DeleteGroupsRequest>(&answer, 0x7f);
    }
}
