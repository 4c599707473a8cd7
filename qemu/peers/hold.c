// SPDX-License-Identifier: GPL-2.0
/* Opens /dev/rust_mmapdev and never closes it, so that its module stays in use. */
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/module.h>

static int __init hold_init(void)
{
	return PTR_ERR_OR_ZERO(filp_open("/dev/rust_mmapdev", O_RDONLY, 0));
}

static void __exit hold_exit(void)
{
}

module_init(hold_init);
module_exit(hold_exit);
MODULE_DESCRIPTION("A descriptor of rust_mmapdev that leaks");
MODULE_LICENSE("GPL");
