// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Which files a role may open, by what they are and where they lie. An area is a folder and all below it, known
// by its inode and found on the way up from the file: a path would be what a mount namespace makes of it.
// A role writes to its own area and to memory, and opens no device but null and its like.
// Not held here: making, removing and renaming names, which are no opening.
#include "include/lsm.bpf.h"

// include/linux/fs.h. A backing file is opened by overlayfs for one that was decided on already (Linux 6.5).
#define FMODE_WRITE 0x2
#define FMODE_BACKING 0x2000000
#define S_IFMT 0170000
#define S_IFIFO 0010000
#define S_IFCHR 0020000
#define S_IFBLK 0060000
// linux/magic.h; shared memory and memory files are of the first kind, pipes without a name of the second.
#define TMPFS_MAGIC 0x01021994
#define PIPEFS_MAGIC 0x50495045
// The kernel's own form of a device number, linux/kdev_t.h.
#define NODE(major, minor) ((major) << 20 | (minor))
#define DEPTH_MAX 64

// Folders that mean something, and the one that is being told now: the kernel's number for a superblock is not
// always what stat(2) says, so the loader opens the folder and hb_lsm_open writes down what it sees.
HB_MAP(area_of, HASH, 128, 0, struct hb_place, __u32); // enum hb_area

HB_MAP(lesson, ARRAY, 1, 0, __u32, struct hb_lesson);

static __always_inline void take_place(struct hb_place *place, struct inode *inode)
{
	place->inode = inode->i_ino;
	place->device = inode->i_sb->s_dev;
	place->unused = 0;
}

// The loader wrote its cgroup and an area, and opens the folder: remember it.
static __always_inline void learn(struct file *file)
{
	__u32 zero = 0, area;
	struct hb_lesson *told = bpf_map_lookup_elem(&lesson, &zero);
	struct hb_place place;

	if (!told || !told->area || told->cgroup != bpf_get_current_cgroup_id())
		return;
	area = told->area;
	take_place(&place, file->f_inode);
	if (bpf_map_update_elem(&area_of, &place, &area, BPF_ANY))
		hb_count_failure(HB_PROGRAM_LSM_OPEN);
	else
		told->area = 0;
}

// The nearest folder that means something; NONE when there is none up to the root of the file system.
static __always_inline __u32 find_area(struct file *file)
{
	struct dentry *here = file->f_path.dentry, *above;
	struct hb_place place;
	__u32 *found;

	for (int i = 0; i < DEPTH_MAX; i++) {
		struct inode *inode = here->d_inode;

		if (inode) {
			take_place(&place, inode);
			found = bpf_map_lookup_elem(&area_of, &place);
			if (found)
				return *found;
		}
		above = here->d_parent;
		if (above == here)
			return HB_AREA_NONE;
		here = above;
	}
	hb_count_failure(HB_PROGRAM_LSM_OPEN);
	return HB_AREA_NONE;
}

static __always_inline int node_allowed(__u32 node)
{
	return node == NODE(1, 3) || node == NODE(1, 5) || node == NODE(1, 7) || // null, zero, full
	       node == NODE(1, 8) || node == NODE(1, 9) ||                       // random, urandom
	       node == NODE(5, 0); // tty: the session's own, and a role has none
}

static __always_inline int area_allowed(__u32 area, __u32 role, int writes)
{
	switch (area) {
	case HB_AREA_DATA:
		return role == HB_ROLE_TRAINER && !writes;
	case HB_AREA_GUARD:
		return role == HB_ROLE_GUARD;
	case HB_AREA_GATEWAY:
		return role == HB_ROLE_GATEWAY;
	case HB_AREA_CREDENTIALS:
		return role == HB_ROLE_GATEWAY && !writes;
	}
	return !writes; // HB_AREA_HOST
}

static __always_inline int open_allowed(struct file *file, __u32 role, __u32 *area)
{
	struct inode *inode = file->f_inode;
	int writes = (file->f_mode & FMODE_WRITE) != 0;
	__u32 kind = inode->i_mode & S_IFMT;
	unsigned long magic = inode->i_sb->s_magic;

	if (kind == S_IFCHR)
		return node_allowed(inode->i_rdev);
	if (kind == S_IFBLK)
		return 0;
	if (magic == PIPEFS_MAGIC)
		return 1;
	*area = find_area(file);
	if (*area)
		return area_allowed(*area, role, writes);
	return !writes || (magic == TMPFS_MAGIC && kind != S_IFIFO);
}

SEC("lsm/file_open")
int hb_lsm_open(const __u64 *ctx)
{
	struct file *file = (void *)ctx[0];
	__u32 role = hb_current_role(), area = 0;
	struct hb_event event;

	if (!(hb_lost(role) & HB_RIGHT_OPEN)) {
		learn(file);
		return 0;
	}
	if ((file->f_mode & FMODE_BACKING) || open_allowed(file, role, &area))
		return 0;
	hb_begin_refusal(&event, HB_PROGRAM_LSM_OPEN, role, HB_RULE_LSM_OPEN);
	// Never a name: what a file is called may be what must not leave.
	event.detail = area | (__u64)(file->f_mode & FMODE_WRITE) << 32;
	return hb_refuse(&event);
}

char _license[] SEC("license") = "Dual BSD/GPL";
