// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Facts of a task that no helper gives: read from the kernel's own structs, whose layouts come from its BTF
// when the object is loaded. Only the fields that are read are declared. A field that a kernel does not have
// leaves its fact 0.
#ifndef HB_TASK_BPF_H
#define HB_TASK_BPF_H

#include "dialect.bpf.h"

#ifdef HB_BCC
#error "needs the kernel's types: kernel/bccload.py leaves files out that include this"
#endif

#include <bpf/bpf_core_read.h>

#include "resources.h"

#define HB_PAGE_SHIFT 12 // rusage counts pages; arm64 with larger ones says less than was used

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup *ancestors[]; // since Linux 6.1 (7f203bc89eb6)
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

typedef struct {
	int counter;
} hb_atomic;

// Its members are there with CONFIG_SCHED_INFO.
struct sched_info {
	unsigned long long run_delay;
};

// With CONFIG_TASK_IO_ACCOUNTING.
struct task_io_accounting {
	__u64 read_bytes;
	__u64 write_bytes;
};

struct task_delay_info {
	__u64 blkio_delay;
};

struct signal_struct {
	hb_atomic live; // threads that are left
	void *oom_mm;   // set for a victim of the OOM killer
	unsigned long maxrss;
};

struct task_struct {
	int tgid;
	int exit_code;
	struct signal_struct *signal;
	struct css_set *cgroups;
	unsigned long min_flt;
	unsigned long maj_flt;
	struct sched_info sched_info;
	struct task_io_accounting ioac;
	struct task_delay_info *delays; // 0 while the host does not count them
};

#pragma clang attribute pop

// The id of a task's cgroup at one level of the v2 hierarchy, 0 when it is not that deep. Moves in a v1
// hierarchy do not show here.
static __always_inline __u64 hb_cgroup_of(struct task_struct *task, __u32 level)
{
	struct cgroup *cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp), *above = 0;

	if (!bpf_core_field_exists(cgroup->ancestors) || BPF_CORE_READ(cgroup, level) < (int)level)
		return 0;
	bpf_probe_read_kernel(&above, sizeof(above),
			      (void *)__builtin_preserve_access_index(&cgroup->ancestors) +
				      level * sizeof(above));
	return above ? BPF_CORE_READ(above, kn, id) : 0;
}

static __always_inline int hb_is_last_thread(struct task_struct *task)
{
	return BPF_CORE_READ(task, signal, live.counter) == 0;
}

static __always_inline int hb_is_oom_victim(struct task_struct *task)
{
	struct signal_struct *signal = BPF_CORE_READ(task, signal);

	return bpf_core_field_exists(signal->oom_mm) && BPF_CORE_READ(signal, oom_mm) != 0;
}

// Bytes that the process had in memory at the most, settled when its last thread ends.
static __always_inline __u64 hb_peak_memory(struct task_struct *task)
{
	return (__u64)BPF_CORE_READ(task, signal, maxrss) << HB_PAGE_SHIFT;
}

// What a thread used since it began, as /proc/PID/task/TID/{schedstat,stat,io} have it.
static __always_inline void hb_used(struct task_struct *task, struct hb_resources *used)
{
	struct task_delay_info *delays = 0;

	__builtin_memset(used, 0, sizeof(*used));
	used->minor_faults = BPF_CORE_READ(task, min_flt);
	used->major_faults = BPF_CORE_READ(task, maj_flt);
	if (bpf_core_field_exists(task->sched_info.run_delay))
		used->run_queue_ns = BPF_CORE_READ(task, sched_info.run_delay);
	if (bpf_core_field_exists(task->ioac.read_bytes)) {
		used->read_bytes = BPF_CORE_READ(task, ioac.read_bytes);
		used->write_bytes = BPF_CORE_READ(task, ioac.write_bytes);
	}
	if (bpf_core_field_exists(task->delays))
		delays = BPF_CORE_READ(task, delays);
	if (delays && bpf_core_field_exists(delays->blkio_delay))
		used->block_wait_ns = BPF_CORE_READ(delays, blkio_delay);
}

#endif
