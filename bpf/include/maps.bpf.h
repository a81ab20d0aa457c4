// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The maps that all programs share. Every object holds these definitions; the loader makes each map once and
// hands it to the objects that are loaded later. Several objects and not one, so that a program which a kernel
// does not take falls out alone, with its reason, and the others still stand.
#ifndef HB_MAPS_BPF_H
#define HB_MAPS_BPF_H

#include "dialect.bpf.h"
#include "homebound.h"

#define HB_EVENTS_BYTES (256 * 1024)

HB_SETTINGS

// One device has seven roles; the rest is room for a restart that hands over.
// key: cgroup id; value: enum hb_role
HB_MAP(role_by_cgroup, HASH, 64, 0, __u64, __u32);

// A name may stand for several addresses of both families, each twice while it changes.
// value: not used
HB_MAP(allow, HASH, 256, 0, struct hb_endpoint, __u64);

// key: hb_traffic_index
HB_MAP(traffic, PERCPU_ARRAY, HB_TRAFFIC_MAX, 0, __u32, struct hb_traffic);

// key: role * HB_RULES_MAX + rule
HB_MAP(denied, PERCPU_ARRAY, HB_ROLES_MAX *HB_RULES_MAX, 0, __u32, __u64);

// What was seen and not refused, laid out as denied.
HB_MAP(attempts, PERCPU_ARRAY, HB_ROLES_MAX *HB_RULES_MAX, 0, __u32, __u64);

// key: enum hb_program
HB_MAP(program_state, PERCPU_ARRAY, HB_PROGRAMS_MAX, 0, __u32, struct hb_program_state);

// 96 bytes an event with its header: room for 2730 denials before the reader comes round.
HB_RING(events, HB_EVENTS_BYTES);

// key: system call number on this architecture; value: HB_SYSCALL_RULE, HB_SYSCALL_SHAPE
HB_MAP(syscall_rule, ARRAY, HB_SYSCALLS_MAX, 0, __u32, __u32);

// Mapped by the guard, which may make no bpf(2) call.
// key: enum hb_credit
HB_MAP(credit, ARRAY, HB_CREDIT_MAX, BPF_F_MMAPABLE, __u32, __u64);

// Threads whose socket() hb_sock_create has just refused: the failed return of that call is the same
// refusal, not a second one. Least recently used goes first, so a killed thread leaves nothing behind.
// key: pid_tgid; value: not used
HB_MAP(refused_sockets, LRU_HASH, 1024, 0, __u64, __u64);

// The number of the call that a program on a security hook has just refused in this thread: likewise.
HB_MAP(refused_calls, LRU_HASH, 1024, 0, __u64, __u32); // by pid_tgid

#endif
