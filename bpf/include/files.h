// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// The part of the contract that is about opened files: where they lie and what for. daemon/homebound/kernel/
// files.py is its mirror, compared by tests/kernel/test_layout.py. A number, once given, is never reused.
#ifndef HB_FILES_H
#define HB_FILES_H

#include <linux/types.h>

// What the mount is to the role that an opened file lies on.
enum hb_file_area {
	HB_FILE_AREA_NONE = 0,  // not about a file
	HB_FILE_AREA_DATA = 1,  // the raw data
	HB_FILE_AREA_APP = 2,   // the app
	HB_FILE_AREA_STATE = 3, // the role's own folders, memory or not
	HB_FILE_AREA_SYSTEM = 4,
	HB_FILE_AREA_OTHER = 5, // none of the role's mounts
	HB_FILE_AREAS_MAX = 8,
};

enum hb_file_mode {
	HB_FILE_MODE_READ = 0, // or to look at it only (O_PATH)
	HB_FILE_MODE_WRITE = 1,
	HB_FILE_MODES_MAX = 2,
};

// Key of the map mount_area. Number 0, which no role's mount has, says that a namespace is known.
struct hb_mount {
	__u32 namespace; // inode number of the mount namespace
	__u32 number;    // of the mount in it
};

#define HB_OPENS_MAX (HB_ROLES_MAX * HB_FILE_AREAS_MAX * HB_FILE_MODES_MAX)

#endif
