// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Never loaded: its BTF names every struct and enum of the contract, for tests/kernel/test_layout.py.
// An enum that is used only as constants does not reach BTF, so there is a variable of each.
#include "include/calltimes.h"
#include "include/homebound.h"
#include "include/resources.h"
#include "include/rights.h"

struct hb_settings layout_settings;
struct hb_endpoint layout_endpoint;
struct hb_traffic layout_traffic;
struct hb_place layout_place;
struct hb_lesson layout_lesson;
struct hb_mount layout_mount;
struct hb_program_state layout_program_state;
struct hb_stream layout_stream;
struct hb_processes layout_processes;
struct hb_calls layout_calls;
struct hb_call_times layout_call_times;
struct hb_resources layout_resources;
struct hb_event layout_event;

enum hb_role layout_role;
enum hb_rule layout_rule;
enum hb_kind layout_kind;
enum hb_flag layout_flag;
enum hb_class layout_class;
enum hb_credit layout_credit;
enum hb_program layout_program;
enum hb_direction layout_direction;
enum hb_family layout_family;
enum hb_protocol layout_protocol;
enum hb_verdict layout_verdict;
enum hb_side layout_side;
enum hb_right layout_right;
enum hb_loses layout_loses;
enum hb_area layout_area;
enum hb_file_area layout_file_area;
enum hb_file_mode layout_file_mode;
enum hb_shape layout_shape;
enum hb_canary layout_canary;
