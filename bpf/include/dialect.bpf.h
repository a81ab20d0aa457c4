// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The two dialects that these programs are written in at once. libbpf's is the ordinary one. With HB_BCC they
// are text for bcc, which brings the kernel's interface and all its functions along and only compiles: it knows
// neither sections nor maps of ours. A map is then a number, which daemon/homebound/kernel/bytecode.py replaces
// by a descriptor, and its shape is told by a function that is never loaded.
#ifndef HB_DIALECT_BPF_H
#define HB_DIALECT_BPF_H

#ifndef HB_BCC

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// ENTRIES: elements, for a ring buffer bytes. FLAGS: BPF_F_*.
#define HB_MAP(NAME, TYPE, ENTRIES, FLAGS, KEY, VALUE) \
	struct {                                       \
		__uint(type, BPF_MAP_TYPE_##TYPE);     \
		__uint(max_entries, ENTRIES);          \
		__uint(map_flags, FLAGS);              \
		__type(key, KEY);                      \
		__type(value, VALUE);                  \
	} NAME SEC(".maps")

// A map whose value begins with a struct bpf_spin_lock.
#define HB_LOCKED_MAP HB_MAP

#define HB_RING(NAME, BYTES)                        \
	struct {                                    \
		__uint(type, BPF_MAP_TYPE_RINGBUF); \
		__uint(max_entries, BYTES);         \
	} NAME SEC(".maps")

// Filled by the loader before any program is verified, and constant from then on.
#define HB_SETTINGS const volatile struct hb_settings settings SEC(".rodata.settings");

#else

// The loader takes the sections out of the text.
#undef SEC
#define SEC(NAME)

#define HB_SETTINGS_NUMBER 4096
#define HB_SETTINGS
#define settings (*(const volatile struct hb_settings *)bpf_pseudo_fd(2, HB_SETTINGS_NUMBER))

// An instruction that loads a constant, marked with a tag: what bytecode.py looks for.
#define HB_TELL(TAG, CONSTANT) bpf_pseudo_fd(TAG, CONSTANT)
#define HB_SHAPE(NAME, TYPE, ENTRIES, FLAGS, KEY_BYTES, VALUE_BYTES, LOCKED)                     \
	enum { hb_number_of_##NAME = __COUNTER__ + 1 };                                          \
	extern struct {                                                                          \
		char number[hb_number_of_##NAME];                                                \
	} NAME;                                                                                  \
	__attribute__((section(".bpf.fn.hb_shape_" #NAME), used)) int hb_shape_##NAME(void *ctx) \
	{                                                                                        \
		return HB_TELL(1, hb_number_of_##NAME) + HB_TELL(2, BPF_MAP_TYPE_##TYPE) +       \
		       HB_TELL(3, ENTRIES) + HB_TELL(4, FLAGS) + HB_TELL(5, KEY_BYTES) +         \
		       HB_TELL(6, VALUE_BYTES) + HB_TELL(7, LOCKED);                             \
	}                                                                                        \
	extern int hb_shape_##NAME(void *ctx)

#define HB_MAP(NAME, TYPE, ENTRIES, FLAGS, KEY, VALUE) \
	HB_SHAPE(NAME, TYPE, ENTRIES, FLAGS, sizeof(KEY), sizeof(VALUE), 0)
#define HB_LOCKED_MAP(NAME, TYPE, ENTRIES, FLAGS, KEY, VALUE) \
	HB_SHAPE(NAME, TYPE, ENTRIES, FLAGS, sizeof(KEY), sizeof(VALUE), 1)
#define HB_RING(NAME, BYTES) HB_SHAPE(NAME, RINGBUF, BYTES, 0, 0, 0, 0)

// The number of a map is the size of what stands for it, so that its address is never taken. Every function
// that takes a map has its line here.
#define HB_FD(MAP) ((void *)bpf_pseudo_fd(1, sizeof(*(MAP))))
#define bpf_map_lookup_elem(MAP, ...) (bpf_map_lookup_elem)(HB_FD(MAP), (void *)__VA_ARGS__)
#define bpf_map_update_elem(MAP, KEY, VALUE, FLAGS) \
	(bpf_map_update_elem)(HB_FD(MAP), (void *)(KEY), (void *)(VALUE), FLAGS)
#define bpf_map_delete_elem(MAP, ...) (bpf_map_delete_elem)(HB_FD(MAP), (void *)__VA_ARGS__)
#define bpf_ringbuf_output(MAP, ...) (bpf_ringbuf_output)(HB_FD(MAP), __VA_ARGS__)
#define bpf_ringbuf_query(MAP, ...) (bpf_ringbuf_query)(HB_FD(MAP), __VA_ARGS__)
#define bpf_ringbuf_reserve(MAP, ...) (bpf_ringbuf_reserve)(HB_FD(MAP), __VA_ARGS__)
#define bpf_sk_storage_get(MAP, ...) (bpf_sk_storage_get)(HB_FD(MAP), __VA_ARGS__)
#define bpf_task_storage_get(MAP, ...) (bpf_task_storage_get)(HB_FD(MAP), __VA_ARGS__)
#define bpf_task_storage_delete(MAP, ...) (bpf_task_storage_delete)(HB_FD(MAP), __VA_ARGS__)

#endif

#endif
