// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The contract between the BPF programs and user space: every number and every struct that both sides know.
// Plain C types, natural alignment, no hidden padding. daemon/homebound/events.py is its mirror;
// tests/kernel/test_layout.py compares the two through BTF. A number, once given, is never reused.
#ifndef HOMEBOUND_H
#define HOMEBOUND_H

#include <linux/types.h>

#include "files.h"
#include "shape.h"

#define HB_VERSION 2

// A role is a cgroup directly below the device's root cgroup. NONE: below the root, but in no role.
enum hb_role {
	HB_ROLE_NONE = 0,
	HB_ROLE_SUPERVISOR = 1,
	HB_ROLE_WATCHER = 2,
	HB_ROLE_TRAINER = 3,
	HB_ROLE_GUARD = 4,
	HB_ROLE_GATEWAY = 5,
	HB_ROLE_CANARY = 6,
	HB_ROLES_MAX = 8, // a power of two, so that an index is bounded by a mask
};

// Why something was denied. 10-19: by these programs. 20-: by seccomp, a namespace or Landlock, seen when
// the call returns.
enum hb_rule {
	HB_RULE_SOCK_CREATE = 10,
	HB_RULE_CONNECT4 = 11,
	HB_RULE_CONNECT6 = 12,
	HB_RULE_SENDMSG4 = 13,
	HB_RULE_SENDMSG6 = 14,
	HB_RULE_EGRESS = 15,
	HB_RULE_INGRESS = 16,
	HB_RULE_CREDIT = 17,
	HB_RULE_UPLINK = 18,
	HB_RULE_SOCKET_STREAM = 20,
	HB_RULE_SOCKET_DATAGRAM = 21,
	HB_RULE_SOCKET_RAW = 22,
	HB_RULE_SOCKET_PACKET = 23,
	HB_RULE_SOCKET_VSOCK = 24,
	HB_RULE_SOCKET_UNIX = 25,
	HB_RULE_SOCKET_NETLINK = 26,
	HB_RULE_SOCKET_OTHER = 27,
	HB_RULE_IO_URING = 30,
	HB_RULE_FILE_OUTSIDE = 31,
	HB_RULE_FOREIGN_FD = 32,
	HB_RULE_NAMESPACE = 33,
	HB_RULE_TRACE = 34,
	HB_RULE_KERNEL = 35,
	HB_RULE_CGROUP = 36, // out of a role's cgroup or into it; nothing refuses that
	// 40-49: by the programs on security hooks, one for each hook.
	HB_RULE_LSM_SOCKET = 40,
	HB_RULE_LSM_CONNECT = 41,
	HB_RULE_LSM_SEND = 42,
	HB_RULE_LSM_OPEN = 43,
	HB_RULE_LSM_RECEIVE = 44,
	HB_RULE_LSM_TRACE = 45,
	HB_RULE_LSM_BPF = 46,
	HB_RULE_LSM_USERNS = 47,
	HB_RULE_LSM_KEY = 48,
	HB_RULES_MAX = 64, // room for growth; 8 roles x 64 rules x 8 bytes = 4 KiB a CPU
};

enum hb_kind {
	HB_KIND_DENIED = 10,
	HB_KIND_CANARY = 20,
	HB_KIND_ROLE_EXIT = 30,
	HB_KIND_ATTEMPT = 31,      // as DENIED, but nothing refused it
	HB_KIND_PROCESS_FORK = 32, // detail: the new process
	HB_KIND_PROCESS_EXEC = 33, // detail: the thread that called
	HB_KIND_PROCESS_EXIT = 34, // result: as wait(2) gives it; detail: most bytes in memory
	HB_KIND_FILE_OPEN = 35,    // of what lies outside; detail: enum hb_file_mode
};

enum hb_flag {
	HB_FLAG_OOM = 1,     // ended by the OOM killer
	HB_FLAG_LEFT = 2,    // moved out of its role
	HB_FLAG_ENTERED = 4, // moved into a role
};

// Cells of the credit map: bytes of stream granted since load by one writer each, and what was used of them.
enum hb_credit {
	HB_CREDIT_GUARD = 0, // written through a mapping of the map
	HB_CREDIT_SUPERVISOR =
		1,          // its sum with the first may fall: what is left over is taken back
	HB_CREDIT_USED = 2, // written by hb_egress
	HB_CREDIT_MAX = 4,
};

// Index into program_state, and "program" of an event. 0-7: what the walls need. 8-: what only looks on; a
// kernel that does not take one of these loses its figures and nothing else.
enum hb_program {
	HB_PROGRAM_SOCK_CREATE = 0,
	HB_PROGRAM_CONNECT4 = 1,
	HB_PROGRAM_CONNECT6 = 2,
	HB_PROGRAM_SENDMSG4 = 3,
	HB_PROGRAM_SENDMSG6 = 4,
	HB_PROGRAM_EGRESS = 5,
	HB_PROGRAM_INGRESS = 6,
	HB_PROGRAM_SYSCALL_EXIT = 7,
	HB_PROGRAM_PROCESS_FORK = 8,
	HB_PROGRAM_PROCESS_EXEC = 9,
	HB_PROGRAM_PROCESS_EXIT = 10,
	HB_PROGRAM_PROCESS_MOVE = 11,
	HB_PROGRAM_CALLS = 12,
	HB_PROGRAM_FILES = 13,
	HB_PROGRAM_THREAD_EXIT = 14,
	HB_PROGRAM_THREAD_MOVE = 15,
	HB_PROGRAM_THREAD_LIVE = 16,
	HB_PROGRAM_CALL_ENTER = 17,
	HB_PROGRAM_CALL_EXIT = 18,
	HB_PROGRAM_UPLINK = 40,
	// 44-59: on security hooks; a wall of its own where the kernel has BPF LSM.
	HB_PROGRAM_LSM_SOCKET = 44,
	HB_PROGRAM_LSM_CONNECT = 45,
	HB_PROGRAM_LSM_SEND = 46,
	HB_PROGRAM_LSM_OPEN = 47,
	HB_PROGRAM_LSM_RECEIVE = 48,
	HB_PROGRAM_LSM_TRACE = 49,
	HB_PROGRAM_LSM_BPF = 50,
	HB_PROGRAM_LSM_USERNS = 51,
	HB_PROGRAM_LSM_KEY = 52,
	HB_PROGRAMS_MAX = 64,
};

enum hb_direction {
	HB_TRANSMIT = 0,
	HB_RECEIVE = 1,
};

enum hb_family {
	HB_IPV4 = 0,
	HB_IPV6 = 1,
};

enum hb_protocol {
	HB_TCP = 0,
	HB_UDP = 1,
	HB_ICMP = 2,
	HB_OTHER = 3, // also: fragments, and packets whose headers we could not follow
};

enum hb_verdict {
	HB_ALLOWED = 0,
	HB_DENIED = 1,
};

// Which packets an endpoint of the allow map stands for.
enum hb_side {
	HB_TO_REMOTE = 0,  // to this address and port
	HB_FROM_LOCAL = 1, // from this local port; the address is zero
};

// Bits of "enforce": the programs on the cgroup, those on security hooks.
#define HB_ENFORCE_CGROUP 1
#define HB_ENFORCE_HOOKS 2

// Read-only data, written before load.
struct hb_settings {
	__u32 role_level; // depth of the role cgroups below the root of the cgroup hierarchy
	__u32 enforce;    // who denies; the others count as denied, but allow: HB_ENFORCE_*
	// What the gateway may send without a grant: bytes of stream a second, and at the most at once.
	__u32 allowance_rate;
	__u32 allowance_burst; // 0: the gateway needs no credit
	__u32 count_calls;     // 1: every system call of a role is counted by its class
	__u32 unused;
};

// Key of the allow map. IPv4 addresses are v4-mapped (RFC 4291, 2.5.5.2), so there is one code path.
struct hb_endpoint {
	__u32 role;
	__u16 port;     // host order
	__u8 protocol;  // IPPROTO_TCP or IPPROTO_UDP
	__u8 direction; // enum hb_side
	__u8 address[16];
};

// Value of the traffic map. "bytes" are IP bytes on the wire, the IP header included and repeated for every
// segment of a GSO packet. "stream_bytes" is TCP payload sent, each byte of a stream once; 0 when receiving.
struct hb_traffic {
	__u64 packets;
	__u64 bytes;
	__u64 stream_bytes;
};

struct hb_program_state {
	__u64 made; // events made: those in the ring buffer and those lost
	__u64 lost; // events that found no room there
	__u64 failed_lookups;
};

// What is kept beside a TCP socket: where the part of the stream that was sent before ends.
struct hb_stream {
	__u32 next_sequence;
};

struct hb_event {
	__u16 version;
	__u16 error; // errno of a helper that failed while the event was made; the fields it fills are zero
	__u16 kind; // enum hb_kind
	__u16 size; // of this struct
	__u32 role;
	__u32 rule;
	__u64 time_ns;    // CLOCK_MONOTONIC
	__u64 cgroup;     // id of the task's or the socket's own cgroup
	__u32 pid;        // process; 0 for a packet, which no task need stand behind
	__u32 tid;        // thread
	__u8 family;      // AF_*
	__u8 protocol;    // IPPROTO_*; low byte
	__u16 port;       // remote port, host order
	__u8 address[16]; // remote address
	__s32 syscall;    // number on this architecture; -1 for none
	__s32 result;     // what the call returned
	__u32 program;    // enum hb_program
	// Socket: type | protocol << 32. Packet: bytes. socket(2) seen at its return: type | protocol << 32,
	// with the flags in the type. Another system call: its first argument, or the open or clone flags.
	__u64 detail;
	__u32 flags; // enum hb_flag
	__u32 area;  // enum hb_file_area
};

// Value of the processes map: what a role's processes did since load.
struct hb_processes {
	__u64 forks;
	__u64 threads;
	__u64 execs;
	__u64 exits;
	__u64 killed; // of the exits: by a signal
	__u64 oom_kills;
	__u64 peak_bytes; // most that one process had in memory; the largest, not the sum, of all CPUs counts
};

// Cells of the traffic map.
#define HB_TRAFFIC_MAX (HB_ROLES_MAX * 2 * 2 * 4 * 2)

static inline __u32 hb_traffic_index(__u32 role, __u32 direction, __u32 family, __u32 protocol,
				     __u32 verdict)
{
	return ((((role * 2 + direction) * 2 + family) * 4 + protocol) * 2) + verdict;
}

#endif
