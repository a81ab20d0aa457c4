// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Files that a role opened: how many, by what their mount is to the role and by whether they can be written.
// One that lies on none of the role's mounts is told, too: by its area, never by a name. Opens that failed are
// not here; hb_syscall_exit has those that were refused.
// Which mount is what, the supervisor says once it has looked at the role (kernel/files.py): opens before that,
// by whoever starts the role, do not count. On demand (settings), because it runs at each call of the whole
// host; so it asks first what costs least: the number, read without a helper, which this kind of program may.
#include "include/call.bpf.h"
#include "include/file.bpf.h"
#include "include/report.bpf.h"

// The largest error that a call returns, as the kernel's IS_ERR has it.
#define ERRORS 4095

// value: enum hb_file_area
HB_MAP(mount_area, HASH, 1024, 0, struct hb_mount, __u32);

// key: (role * HB_FILE_AREAS_MAX + area) * HB_FILE_MODES_MAX + mode
HB_MAP(opens, PERCPU_ARRAY, HB_OPENS_MAX, 0, __u32, __u64);

static __always_inline int is_known(__u32 namespace)
{
	struct hb_mount key = {.namespace = namespace};

	return bpf_map_lookup_elem(&mount_area, &key) != 0;
}

// What is gone by now lay who knows where.
static __always_inline __u32 area_of_file(struct file *file, __u32 namespace)
{
	struct hb_mount key = {.namespace = namespace};
	__u32 *area;

	if (!file)
		return HB_FILE_AREA_OTHER;
	key.number = hb_mount_of(file);
	area = key.number ? bpf_map_lookup_elem(&mount_area, &key) : 0;
	return area ? *area & (HB_FILE_AREAS_MAX - 1) : HB_FILE_AREA_OTHER;
}

static __always_inline void report_outside(const struct hb_call *call, __u32 role, __u32 mode,
					   long result)
{
	struct hb_event event;

	hb_begin(&event, HB_KIND_FILE_OPEN, HB_PROGRAM_FILES, role, 0);
	hb_name_current(&event);
	event.syscall = call->number;
	event.result = result;
	event.detail = mode;
	event.area = HB_FILE_AREA_OTHER;
	hb_send_trace(&event);
}

SEC("tp_btf/sys_exit")
int hb_files(const __u64 *ctx)
{
	const struct hb_registers *registers = (const void *)ctx[0];
	long result = ctx[1];
	struct task_struct *task;
	struct hb_call call;
	struct file *file;
	__u32 role, namespace, area, mode, index;
	__u64 *count;

	if (!hb_opens(hb_number_of(registers)) || (__u64)result > -(__u64)ERRORS - 1)
		return 0;
	role = hb_current_role();
	if (!hb_role_is_watched(role) || !(__u32)bpf_get_current_uid_gid())
		return 0;
	if (hb_read_entry(registers, &call)) {
		hb_count_failure(HB_PROGRAM_FILES);
		return 0;
	}
	task = (void *)bpf_get_current_task();
	namespace = hb_mount_namespace(task);
	if (call.compat || !is_known(namespace))
		return 0;
	file = hb_file_of(task, result);
	area = area_of_file(file, namespace);
	mode = BPF_CORE_READ(file, f_mode) & HB_FMODE_WRITE ? HB_FILE_MODE_WRITE
							    : HB_FILE_MODE_READ;
	index = (role * HB_FILE_AREAS_MAX + area) * HB_FILE_MODES_MAX + mode;
	count = bpf_map_lookup_elem(&opens, &index);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		hb_count_failure(HB_PROGRAM_FILES);
	if (area == HB_FILE_AREA_OTHER)
		report_outside(&call, role, mode, result);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
