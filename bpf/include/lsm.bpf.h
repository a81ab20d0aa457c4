// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// What the programs on security hooks share: the kernel's types as far as they look, who loses which right,
// and how a refusal is counted, told and marked. Only members that are read stand here; their places come
// from the running kernel's BTF when the object is loaded (CO-RE).
#ifndef HB_LSM_BPF_H
#define HB_LSM_BPF_H

#include "call.bpf.h"
#include "report.bpf.h"
#include "rights.h"

#define EPERM 1

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct sock_common {
	unsigned short skc_family;
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
};

struct socket {
	struct file *file;
	struct sock *sk;
};

struct msghdr {
	void *msg_name;
};

struct super_block {
	__u32 s_dev;
	unsigned long s_magic;
};

struct inode {
	__u16 i_mode;
	__u32 i_rdev;
	unsigned long i_ino;
	struct super_block *i_sb;
};

struct dentry {
	struct dentry *d_parent;
	struct inode *d_inode;
};

struct path {
	struct dentry *dentry;
};

struct file {
	__u32 f_mode;
	struct path f_path;
	struct inode *f_inode;
};

#pragma clang attribute pop

// What a role lost, as bits of enum hb_right. Whoever is in no role, or is the supervisor, lost nothing.
static __always_inline __u32 hb_lost(__u32 role)
{
	if (role == HB_ROLE_TRAINER)
		return HB_LOSES_TRAINER;
	if (role == HB_ROLE_GUARD)
		return HB_LOSES_GUARD;
	if (role == HB_ROLE_GATEWAY)
		return HB_LOSES_GATEWAY;
	if (role == HB_ROLE_WATCHER)
		return HB_LOSES_WATCHER;
	if (role == HB_ROLE_CANARY)
		return HB_LOSES_CANARY;
	return 0;
}

static __always_inline int hb_is_root(void)
{
	return (__u32)bpf_get_current_uid_gid() == 0;
}

// hb_syscall_exit sees the call come back refused: it must not count what is counted here. Where the refusal
// is not the call's result, the mark stays until the thread's next one; the number keeps it apart.
static __always_inline void hb_mark_refused(__u32 program)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct hb_call call = {};

	if (hb_read_call((const void *)bpf_task_pt_regs(bpf_get_current_task_btf()), &call)) {
		hb_count_failure(program);
		return;
	}
	if (!call.compat && bpf_map_update_elem(&refused_calls, &pid_tgid, &call.number, BPF_ANY))
		hb_count_failure(program);
}

static __always_inline void hb_begin_refusal(struct hb_event *event, __u32 program, __u32 role,
					     __u32 rule)
{
	hb_begin_denied(event, program, role, rule);
	hb_name_current(event);
	event->result = -EPERM;
}

// Counts, tells, and gives what the hook returns.
static __always_inline int hb_refuse(struct hb_event *event)
{
	hb_count_denied(event->program, event->role, event->rule);
	hb_send(event);
	if (!(settings.enforce & HB_ENFORCE_HOOKS))
		return 0;
	hb_mark_refused(event->program);
	return -EPERM;
}

#endif
