// SPDX-License-Identifier: GPL-2.0
/* Draws a WARNING when it is loaded. */
#include <linux/module.h>

static int __init warn_init(void)
{
	WARN(1, "asked for by a test\n");
	return 0;
}

static void __exit warn_exit(void)
{
}

module_init(warn_init);
module_exit(warn_exit);
MODULE_DESCRIPTION("WARNING on load");
MODULE_LICENSE("GPL");
