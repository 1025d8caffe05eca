// SPDX-License-Identifier: GPL-2.0-or-later
/* The overlay's configuration: defaults and release. */

#include <stdlib.h>

#include "ov_config.h"

void ov_config_init(struct ov_config *c)
{
	*c = (struct ov_config){
		.redirect = OV_REDIRECT_OFF,
		.xino = OV_XINO_AUTO,
		.sync = OV_SYNC_ON,
		.squash_uid = -1,
		.squash_gid = -1,
	};
}

void ov_config_clear(struct ov_config *c)
{
	for (size_t i = 0; i < c->nlower; i++)
		free(c->lower[i]);
	free(c->lower);
	free(c->upper);
	free(c->work);
	ov_idmap_clear(&c->uidmap);
	ov_idmap_clear(&c->gidmap);
	ov_config_init(c);
}
