// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// What every program says: its failed lookups, its denials, its events. Nothing returns in silence.
// Counters are per CPU but added to atomically: these programs may be preempted, or interrupted by a packet,
// in the middle of an addition (only migration is off while they run).
#ifndef HB_REPORT_BPF_H
#define HB_REPORT_BPF_H

#include "maps.bpf.h"

// A lookup that the verifier knows to succeed cannot be counted when it does not: such an index is constant.
static __always_inline void hb_count_failure(__u32 program)
{
	struct hb_program_state *state = bpf_map_lookup_elem(&program_state, &program);

	if (state)
		__sync_fetch_and_add(&state->failed_lookups, 1);
}

static __always_inline void hb_count_denied(__u32 program, __u32 role, __u32 rule)
{
	__u32 index = (role & (HB_ROLES_MAX - 1)) * HB_RULES_MAX + rule;
	__u64 *count = bpf_map_lookup_elem(&denied, &index);

	if (count)
		__sync_fetch_and_add(count, 1);
	else
		hb_count_failure(program);
}

static __always_inline void hb_count_attempt(__u32 program, __u32 role, __u32 rule)
{
	__u32 index = (role & (HB_ROLES_MAX - 1)) * HB_RULES_MAX + rule;
	__u64 *count = bpf_map_lookup_elem(&attempts, &index);

	if (count)
		__sync_fetch_and_add(count, 1);
	else
		hb_count_failure(program);
}

// ``room``: bytes that may wait in the ring buffer already.
static __always_inline void hb_send_into(struct hb_event *event, __u64 room)
{
	__u32 program = event->program;
	struct hb_program_state *state = bpf_map_lookup_elem(&program_state, &program);
	long failed = 1;

	if (room >= HB_EVENTS_BYTES || bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) <= room)
		failed = bpf_ringbuf_output(&events, event, sizeof(*event), 0);
	if (!state)
		return;
	__sync_fetch_and_add(&state->made, 1);
	if (failed)
		__sync_fetch_and_add(&state->lost, 1);
}

static __always_inline void hb_send(struct hb_event *event)
{
	hb_send_into(event, HB_EVENTS_BYTES);
}

// For what is no denial: half of the ring buffer is kept free of it, so that no flood of forks takes the room
// of the one event that explains a violation.
static __always_inline void hb_send_trace(struct hb_event *event)
{
	hb_send_into(event, HB_EVENTS_BYTES / 2);
}

// Starts an event: all that does not depend on who is behind it. The struct has no hidden padding.
static __always_inline void hb_begin(struct hb_event *event, __u32 kind, __u32 program, __u32 role,
				     __u32 rule)
{
	__builtin_memset(event, 0, sizeof(*event));
	event->version = HB_VERSION;
	event->kind = kind;
	event->size = sizeof(*event);
	event->role = role;
	event->rule = rule;
	event->time_ns = bpf_ktime_get_ns();
	event->syscall = -1;
	event->program = program;
}

static __always_inline void hb_begin_denied(struct hb_event *event, __u32 program, __u32 role,
					    __u32 rule)
{
	hb_begin(event, HB_KIND_DENIED, program, role, rule);
}

static __always_inline void hb_name_current(struct hb_event *event)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();

	event->cgroup = bpf_get_current_cgroup_id();
	event->pid = pid_tgid >> 32;
	event->tid = (__u32)pid_tgid;
}

// The role of a cgroup that is an ancestor at the level of the roles; a descendant counts for its role.
// Id 0: the cgroup is not as deep as a role.
static __always_inline __u32 hb_role_of(__u64 cgroup)
{
	__u32 *role = bpf_map_lookup_elem(&role_by_cgroup, &cgroup);

	return role ? *role & (HB_ROLES_MAX - 1) : HB_ROLE_NONE;
}

static __always_inline __u32 hb_current_role(void)
{
	return hb_role_of(bpf_get_current_ancestor_cgroup_id(settings.role_level));
}

// Whether the programs on the cgroup deny what they count as denied.
static __always_inline int hb_enforces(void)
{
	return settings.enforce & HB_ENFORCE_CGROUP;
}

// Whether a role may use IP at all. The others have no entry in the allow map, and are not even asked there.
static __always_inline int hb_role_has_network(__u32 role)
{
	return role == HB_ROLE_GATEWAY || role == HB_ROLE_WATCHER || role == HB_ROLE_SUPERVISOR;
}

// Whose refused system calls are counted. The supervisor makes the walls; what it is refused is its own
// business. NONE is the rest of the host, as hb_syscall_exit sees it.
static __always_inline int hb_role_is_watched(__u32 role)
{
	return role != HB_ROLE_NONE && role != HB_ROLE_SUPERVISOR;
}

#endif
