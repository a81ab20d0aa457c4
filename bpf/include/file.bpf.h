// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Where an open file lies: the mount it was reached through and the mount namespace of the task, read from the
// kernel's own structs, whose layouts come from its BTF when the object is loaded. Only members that are read
// are declared.
#ifndef HB_FILE_BPF_H
#define HB_FILE_BPF_H

#include "dialect.bpf.h"
#ifdef HB_BCC
#error "needs the kernel's types: kernel/bccload.py leaves files out that include this"
#endif
#include <bpf/bpf_core_read.h>

#include "files.h"

// include/linux/fs.h
#define HB_FMODE_WRITE 0x2

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct mnt_namespace {
	struct ns_common ns;
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
};

struct vfsmount {
	int mnt_flags;
};

// fs/mount.h: a struct file points to the member mnt.
struct mount {
	struct vfsmount mnt;
	int mnt_id;
};

struct path {
	struct vfsmount *mnt;
};

struct file {
	__u32 f_mode;
	struct path f_path;
};

struct fdtable {
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct task_struct {
	struct files_struct *files;
	struct nsproxy *nsproxy;
};

#pragma clang attribute pop

// What is open under a descriptor of this task, or 0: another thread may have closed it already.
static __always_inline struct file *hb_file_of(struct task_struct *task, __u32 descriptor)
{
	struct file **table = BPF_CORE_READ(task, files, fdt, fd), *file = 0;

	if (bpf_probe_read_kernel(&file, sizeof(file), table + descriptor))
		return 0;
	return file;
}

static __always_inline __u32 hb_mount_namespace(struct task_struct *task)
{
	return BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
}

// The number of a file's mount, as /proc/PID/mountinfo gives it.
static __always_inline __u32 hb_mount_of(struct file *file)
{
	void *inner = BPF_CORE_READ(file, f_path.mnt);
	struct mount *mount = inner - bpf_core_field_offset(struct mount, mnt);

	return BPF_CORE_READ(mount, mnt_id);
}

#endif
