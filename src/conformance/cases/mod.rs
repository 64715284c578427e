//! The cases, by what they are about.

mod bases;
mod bases_failing;
mod concurrency;
mod contract;
mod failures;
mod injection;
mod rebuilds;
mod recovery;
mod refusals;

use super::Case;

macro_rules! list {
    ($($module:ident: $($name:ident)+;)+) => {
        vec![$($(Case { name: stringify!($name), run: $module::$name },)+)+]
    };
}

pub(super) fn all() -> Vec<Case> {
    list! {
        contract:
            identity_is_stable
            a_volume_that_does_not_exist_is_seen_so
            identities_follow_their_roots
            looking_changes_nothing
            the_lock_excludes
            waiting_for_the_lock_heeds_the_token
            staging_is_beside_the_live_root
            sealing_stores_the_record
            renaming_never_replaces
            exchanging_is_whole_or_refused
            discarding_is_idempotent
            discarding_stays_inside
            capturing_forgets
            growing_is_honest
            purging_what_is_gone
            tidying_nothing;
        rebuilds:
            a_new_volume_is_created
            a_rebuild_replaces_everything
            a_rebuild_from_nothing_is_empty
            the_image_is_recorded
            properties_are_kept
            default_acls_do_not_leak
            attributes_and_devices_arrive
            in_place_replaces_everything
            in_place_creates_too
            detaching_leaves_the_old_root_to_recover
            names_of_many_kinds;
        refusals:
            snapshots_refuse
            snapshots_are_purged
            snapshots_are_kept
            holders_refuse
            sizes_are_refused_where_there_are_none
            in_place_refuses_a_stream;
        failures:
            unusable_images_change_nothing
            a_wrong_digest_changes_nothing
            a_failing_reader_changes_nothing
            cancelling_a_swap
            cancelling_in_place
            a_full_pool_changes_nothing
            a_retry_after_a_failure_works
            an_exchange_that_turns_out_impossible;
        bases:
            looking_for_bases_changes_nothing
            a_base_is_made_once
            a_base_gives_the_root_of_its_image
            a_base_is_recorded
            properties_are_kept_from_a_base
            in_place_from_a_base
            detaching_from_a_base
            plans_from_a_base_are_what_runs
            policies_hold_from_a_base
            a_held_base_is_not_removed
            a_removed_base_leaves_its_volumes
            collecting_heeds_its_policy
            a_changed_base_is_found_out
            ten_volumes_of_one_base;
        bases_failing:
            unusable_images_make_no_base
            unfinished_bases_are_made
            staging_a_base_that_is_none
            a_base_larger_than_the_volume
            cancelling_from_a_base
            a_full_pool_makes_no_base
            errors_in_making_a_base
            errors_in_removing_a_base;
        injection:
            errors_in_a_swap
            errors_in_a_swap_with_purge
            errors_in_a_first_rebuild
            errors_in_place
            errors_within
            errors_in_a_swap_from_a_base
            errors_in_a_swap_with_purge_from_a_base
            errors_in_a_first_rebuild_from_a_base
            errors_in_place_from_a_base;
        recovery:
            every_state_recovers
            every_state_rebuilds
            errors_in_a_recovery
            two_recoveries_at_once;
        concurrency:
            a_second_rebuild_is_refused
            a_second_rebuild_waits
            ten_volumes_at_once;
    }
}
