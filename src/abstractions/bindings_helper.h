/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the kernel crate's own bindings leave out: functions, and constants
 * that bindgen evaluates only as variables. Kbuild runs bindgen on it, against
 * the kernel that the module is built for; types are the kernel crate's.
 */

#include <linux/anon_inodes.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/pagemap.h>
#include <linux/signal.h>
#include <linux/stat.h>
#include <linux/userfaultfd_k.h>

const fmode_t RUST_CONST_HELPER_FMODE_ATOMIC_POS = FMODE_ATOMIC_POS;
const fmode_t RUST_CONST_HELPER_FMODE_NOCMTIME = FMODE_NOCMTIME;

const fgf_t RUST_CONST_HELPER_FGP_LOCK = FGP_LOCK;
const fgf_t RUST_CONST_HELPER_FGP_DONTCACHE = FGP_DONTCACHE;

const gfp_t RUST_CONST_HELPER_GFP_HIGHUSER_MOVABLE = GFP_HIGHUSER_MOVABLE;
const gfp_t RUST_CONST_HELPER___GFP_DIRECT_RECLAIM = __GFP_DIRECT_RECLAIM;
const gfp_t RUST_CONST_HELPER___GFP_NORETRY = __GFP_NORETRY;
const gfp_t RUST_CONST_HELPER___GFP_RETRY_MAYFAIL = __GFP_RETRY_MAYFAIL;

const unsigned int RUST_CONST_HELPER_MAX_XAS_ORDER = MAX_XAS_ORDER;
const unsigned int RUST_CONST_HELPER_PREFERRED_MAX_PAGECACHE_ORDER =
	PREFERRED_MAX_PAGECACHE_ORDER;
const unsigned int RUST_CONST_HELPER_AS_FOLIO_ORDER_MASK = AS_FOLIO_ORDER_MASK;

const size_t RUST_CONST_HELPER_SIG_KTHREAD = (size_t)SIG_KTHREAD;

const size_t RUST_CONST_HELPER_PMD_SIZE = PMD_SIZE;
const unsigned int RUST_CONST_HELPER_PMD_ORDER = PMD_ORDER;

const vm_flags_t RUST_CONST_HELPER_VM_LOCKED = VM_LOCKED;
const vm_flags_t RUST_CONST_HELPER___VM_UFFD_FLAGS = __VM_UFFD_FLAGS;
