// SPDX-License-Identifier: GPL-2.0
/* What real drivers do differently, as far as a receive service meets it. Each line names whom it was seen in. */
#include <linux/string.h>

#include "devmemsim.h"

static const struct dms_personality dms_personalities[] = {
	{
		.name = "none",
		.max_rules = 1024,
		.max_rx_page = DMS_MAX_RX_PAGE,
	},
	{
		.name = "mlx5",
		.max_rules = 1024,
		.locations = DMS_LOC_EXPLICIT_ONLY,
		.silent_replace = true,
		.split_wants_gro_hw = true,
		.split_wants_up = true,
		.restart_stops_all = true,
		.unbind_down_errno = -ENODEV,
		.max_rx_page = SZ_128K,
	},
	{
		.name = "bnxt",
		.max_rules = 4096,
		.locations = DMS_LOC_ANY_ONLY,
		.refuses_duplicates = true,
		.ntuple_gates_rules = true,
		.ntuple_off_flushes = true,
		.split_refuses_off = true,
		.max_rx_page = SZ_32K,
	},
	{
		.name = "gve",
		.max_rules = 1024,
		.ntuple_gates_rules = true,
		.ntuple_off_flushes = true,
		.restart_stops_all = true,
		.reset_renews_napi = true,
		.unbind_down_errno = -EAGAIN,
		.first_bindable = 1,
	},
	{
		.name = "fbnic",
		.max_rules = 48,
		.locations = DMS_LOC_ANY_ONLY,
	},
};

const char dms_personality_names[] = "none, mlx5, bnxt, gve or fbnic";

const struct dms_personality *dms_personality_find(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(dms_personalities); i++)
		if (!strcmp(dms_personalities[i].name, name))
			return &dms_personalities[i];
	return NULL;
}
