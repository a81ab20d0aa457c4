// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The maps that all programs share. Every object holds these definitions; the loader makes each map once and
// hands it to the objects that are loaded later. Several objects and not one, so that a program which a kernel
// does not take falls out alone, with its reason, and the others still stand.
#ifndef HB_MAPS_BPF_H
#define HB_MAPS_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "homebound.h"

const volatile struct hb_settings settings SEC(".rodata.settings");

// One device has seven roles; the rest is room for a restart that hands over.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);   // cgroup id
	__type(value, __u32); // enum hb_role
} role_by_cgroup SEC(".maps");

// A name may stand for several addresses of both families, each twice while it changes.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct hb_endpoint);
	__type(value, __u64); // not used
} allow SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HB_TRAFFIC_MAX);
	__type(key, __u32); // hb_traffic_index
	__type(value, struct hb_traffic);
} traffic SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HB_ROLES_MAX *HB_RULES_MAX);
	__type(key, __u32); // role * HB_RULES_MAX + rule
	__type(value, __u64);
} denied SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HB_PROGRAMS_MAX);
	__type(key, __u32); // enum hb_program
	__type(value, struct hb_program_state);
} program_state SEC(".maps");

// 88 bytes an event with its header: room for 2978 denials before the reader comes round.
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HB_SYSCALLS_MAX);
	__type(key, __u32);   // system call number on this architecture
	__type(value, __u32); // HB_SYSCALL_RULE, HB_SYSCALL_SHAPE
} syscall_rule SEC(".maps");

// Mapped by the guard, which may make no bpf(2) call.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HB_CREDIT_MAX);
	__type(key, __u32); // enum hb_credit
	__type(value, __u64);
} credit SEC(".maps");

// Threads whose socket() hb_sock_create has just refused: the failed return of that call is the same
// refusal, not a second one. Least recently used goes first, so a killed thread leaves nothing behind.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);   // pid_tgid
	__type(value, __u64); // not used
} refused_sockets SEC(".maps");

#endif
