// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/mmapdev_twin: rust_mmapdev in C, with the same design and the same calls
 * into the core, function by function. What one costs more than the other in
 * the benchmark is what the language costs.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/userfaultfd_k.h>

#include "../../src/uapi/rust_mmapdev.h"

#define TWIN_MAX_PAGES 262144
/* PMD entries filled at once, a power of two. */
#define TWIN_HUGE_FAULT_AROUND 16UL

static const char initial_content[] = "mmapdev_twin: this text lives in kernel memory";

static long buffer_pages = 1;
module_param(buffer_pages, long, 0);
MODULE_PARM_DESC(buffer_pages, "Size of the buffer in pages, 1 to 262144 (default 1)");

/**
 * struct twin - the device and its buffer
 * @misc:       the registration
 * @file:       a file that nobody else knows; the buffer is its page cache
 * @mapping:    the address space of @file
 * @page_count: number of pages of the buffer
 * @writers:    held by write(2) and CLEAR, whose bytes never mix
 */
struct twin {
	struct miscdevice misc;
	struct file *file;
	struct address_space *mapping;
	pgoff_t page_count;
	struct mutex writers;
};

static loff_t twin_size(const struct twin *twin)
{
	return (loff_t)twin->page_count << PAGE_SHIFT;
}

/* --- the pages ---------------------------------------------------------- */

static const struct file_operations twin_pages_fops = {};

static const struct address_space_operations twin_pages_aops = {
	.dirty_folio		= noop_dirty_folio,
	.migrate_folio		= filemap_migrate_folio,
	.error_remove_folio	= generic_error_remove_folio,
};

/* Without @compact, a large folio must be at hand. */
static int twin_add_folio(struct twin *twin, pgoff_t index, unsigned int order, bool compact)
{
	gfp_t gfp = GFP_HIGHUSER_MOVABLE | __GFP_NOWARN;
	struct folio *folio;
	int err;

	if (!order)
		gfp |= __GFP_RETRY_MAYFAIL;
	else if (compact)
		gfp |= __GFP_NORETRY;
	else
		gfp &= ~__GFP_DIRECT_RECLAIM;

	folio = folio_alloc(gfp | __GFP_ZERO, order);
	if (!folio)
		return -ENOMEM;
	err = filemap_add_folio(twin->mapping, folio, index, gfp);
	if (!err) {
		/* Dirty, as the bytes stand nowhere else. */
		folio_mark_dirty(folio);
		folio_end_read(folio, true);
	}
	folio_put(folio);
	return err;
}

static int twin_fill(struct twin *twin)
{
	unsigned int order, tried = MAX_PAGECACHE_ORDER + 1;
	pgoff_t index = 0;
	int err;

	while (index < twin->page_count) {
		if (fatal_signal_pending(current))
			return -EINTR;
		order = min_t(unsigned int, ilog2(twin->page_count - index), MAX_PAGECACHE_ORDER);
		if (index)
			order = min_t(unsigned int, order, __ffs(index));
		while ((err = twin_add_folio(twin, index, order, order < tried))) {
			tried = min(tried, order);
			if (!order)
				return err;
			order--;
		}
		index += 1UL << order;
	}
	return 0;
}

static int twin_alloc_pages(struct twin *twin)
{
	struct inode *inode;
	int err;

	twin->file = anon_inode_create_getfile(KBUILD_MODNAME, &twin_pages_fops, NULL, O_RDWR, NULL);
	if (IS_ERR(twin->file))
		return PTR_ERR(twin->file);
	twin->mapping = twin->file->f_mapping;

	inode = twin->mapping->host;
	/* Memory failure takes pages out of regular files only. */
	inode->i_mode |= S_IFREG;
	/* A page more, or filemap_map_pages() stops short where it has no page table yet. */
	inode->i_size = twin_size(twin) + PAGE_SIZE;
	twin->mapping->a_ops = &twin_pages_aops;
	mapping_set_unevictable(twin->mapping);
	mapping_set_large_folios(twin->mapping);

	err = twin_fill(twin);
	if (err)
		__fput_sync(twin->file);
	return err;
}

static size_t twin_huge_size(struct twin *twin)
{
	pgoff_t index = 0;
	size_t size = 0;

	while (index < twin->page_count) {
		struct folio *folio = filemap_get_folio(twin->mapping, index);
		unsigned int order = 0;

		if (!IS_ERR(folio)) {
			order = folio_order(folio);
			folio_put(folio);
		}
		if (order == PMD_ORDER)
			size += PMD_SIZE;
		index += 1UL << order;
	}
	return size;
}

/* --- faults ------------------------------------------------------------- */

static bool is_shared_write(const struct vm_fault *vmf)
{
	return (vmf->flags & FAULT_FLAG_WRITE) && (vmf->vma->vm_flags & VM_SHARED);
}

/* Whether somebody wants to know which pages are written to. */
static bool is_tracked(const struct vm_area_struct *vma)
{
	return (vma->vm_flags & __VM_UFFD_FLAGS) ||
	       (IS_ENABLED(CONFIG_MEM_SOFT_DIRTY) && !(vma->vm_flags & VM_SOFTDIRTY));
}

/* The part of the VMA that the page table of @address holds: its first page and size. */
static pgoff_t twin_window(const struct vm_fault *vmf, unsigned long *pages)
{
	unsigned long table = vmf->address & PMD_MASK;
	unsigned long start = max(table, vmf->vma->vm_start);
	unsigned long last = min(table + (PMD_SIZE - 1), vmf->vma->vm_end - 1);

	*pages = ((last - start) >> PAGE_SHIFT) + 1;
	return vmf->pgoff - ((vmf->address - start) >> PAGE_SHIFT);
}

static vm_fault_t twin_map_around(struct vm_fault *vmf)
{
	unsigned long pages;
	pgoff_t first = twin_window(vmf, &pages);

	return filemap_map_pages(vmf, first, first + pages - 1);
}

static struct folio *twin_lock_folio(const struct vm_fault *vmf, pgoff_t index, vm_fault_t *ret)
{
	struct twin *twin = vmf->vma->vm_file->private_data;
	struct folio *folio;

	if (index >= twin->page_count) {
		*ret = VM_FAULT_SIGBUS;
		return NULL;
	}
	folio = filemap_lock_folio(twin->mapping, index);
	if (IS_ERR(folio)) {
		*ret = VM_FAULT_HWPOISON;
		return NULL;
	}
	return folio;
}

static vm_fault_t twin_fault(struct vm_fault *vmf)
{
	struct folio *folio;
	vm_fault_t ret;

	/* The core looks at the pages around for reads only. */
	if (is_shared_write(vmf) && !is_tracked(vmf->vma)) {
		ret = twin_map_around(vmf);
		if (ret)
			return ret;
	}
	folio = twin_lock_folio(vmf, vmf->pgoff, &ret);
	if (!folio)
		return ret;
	vmf->page = folio_file_page(folio, vmf->pgoff);
	return VM_FAULT_LOCKED;
}

static vm_fault_t twin_map_pages(struct vm_fault *vmf, pgoff_t start, pgoff_t end)
{
	return twin_map_around(vmf);
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
static vm_fault_t twin_map_huge(struct vm_fault *vmf)
{
	vm_fault_t ret = VM_FAULT_FALLBACK, ignored;
	unsigned long pages;
	pgoff_t first = twin_window(vmf, &pages);
	struct folio *folio;

	if (pages != HPAGE_PMD_NR)
		return VM_FAULT_FALLBACK;
	folio = twin_lock_folio(vmf, first, &ignored);
	if (!folio)
		return VM_FAULT_FALLBACK;
	if (folio_order(folio) == PMD_ORDER && folio->index == first &&
	    !folio_test_has_hwpoisoned(folio))
		ret = vmf_insert_folio_pmd(vmf, folio, false);
	folio_unlock(folio);
	folio_put(folio);
	return ret;
}

static void twin_map_huge_around(const struct vm_fault *vmf)
{
	unsigned long accessed = vmf->address >> PMD_SHIFT;
	unsigned long first = round_down(accessed, TWIN_HUGE_FAULT_AROUND);
	unsigned long entry = max(first, DIV_ROUND_UP(vmf->vma->vm_start, PMD_SIZE));
	unsigned long end = min(first + TWIN_HUGE_FAULT_AROUND, vmf->vma->vm_end >> PMD_SHIFT);

	for (; entry < end; entry++) {
		unsigned long address = entry << PMD_SHIFT;
		long pages = (long)(address - vmf->address) >> PAGE_SHIFT;
		struct vm_fault around;

		if (entry == accessed)
			continue;
		/* Address and index of a fault are constants for all but the core. */
		memcpy(&around, vmf, sizeof(around));
		*(unsigned long *)&around.address = address;
		*(pgoff_t *)&around.pgoff = vmf->pgoff + pages;
		around.pmd = vmf->pmd + (entry - accessed);
		twin_map_huge(&around);
	}
}

static vm_fault_t twin_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	bool tracked = is_tracked(vmf->vma);
	vm_fault_t ret;

	if (order != PMD_ORDER ||
	    ((vmf->flags & FAULT_FLAG_WRITE) && (tracked || !is_shared_write(vmf))) ||
	    !pmd_none(pmdp_get_lockless(vmf->pmd)))
		return VM_FAULT_FALLBACK;
	ret = twin_map_huge(vmf);
	if (ret == VM_FAULT_NOPAGE && !tracked)
		twin_map_huge_around(vmf);
	return ret;
}
#endif

static const struct vm_operations_struct twin_vm_ops = {
	.fault		= twin_fault,
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
	.huge_fault	= twin_huge_fault,
#endif
	.map_pages	= twin_map_pages,
};

/* --- the file operations ------------------------------------------------ */

static int twin_open(struct inode *inode, struct file *file)
{
	struct twin *twin = container_of(file->private_data, struct twin, misc);
	int err = generic_file_open(inode, file);

	if (err)
		return err;
	file->private_data = twin;
	file->f_mode |= FMODE_ATOMIC_POS | FMODE_NOCMTIME;
	ihold(twin->mapping->host);
	file->f_mapping = twin->mapping;
	return 0;
}

static int twin_release(struct inode *inode, struct file *file)
{
	iput(file->f_mapping->host);
	return 0;
}

/* How many of the @length bytes from @offset on come before a memory error. */
static size_t twin_accessible(struct folio *folio, size_t offset, size_t length)
{
	pgoff_t n, end;

	length = min(length, folio_size(folio) - offset);
	if (folio_test_large(folio) ? !folio_test_has_hwpoisoned(folio) : !folio_test_hwpoison(folio))
		return length;
	end = DIV_ROUND_UP(offset + length, PAGE_SIZE);
	for (n = offset >> PAGE_SHIFT; n < end; n++) {
		if (PageHWPoison(folio_page(folio, n))) {
			size_t start = n << PAGE_SHIFT;

			return start > offset ? start - offset : 0;
		}
	}
	return length;
}

static ssize_t twin_read_iter(struct kiocb *kiocb, struct iov_iter *to)
{
	struct twin *twin = kiocb->ki_filp->private_data;
	loff_t at = kiocb->ki_pos, end, size = twin_size(twin);
	ssize_t done;
	int err = 0;

	if (at >= size)
		return 0;
	end = at + min_t(loff_t, iov_iter_count(to), size - at);
	while (at < end) {
		struct folio *folio;
		size_t offset, length, copied;

		if (fatal_signal_pending(current)) {
			err = -EINTR;
			break;
		}
		folio = filemap_get_folio(twin->mapping, at >> PAGE_SHIFT);
		if (IS_ERR(folio)) {
			err = -EIO;
			break;
		}
		offset = offset_in_folio(folio, at);
		length = twin_accessible(folio, offset, end - at);
		copied = length ? copy_folio_to_iter(folio, offset, length, to) : 0;
		folio_put(folio);
		at += copied;
		if (!length || copied < length) {
			err = length ? -EFAULT : -EIO;
			break;
		}
	}
	done = at - kiocb->ki_pos;
	kiocb->ki_pos = at;
	return done ? done : err;
}

static ssize_t twin_write_iter(struct kiocb *kiocb, struct iov_iter *from)
{
	struct twin *twin = kiocb->ki_filp->private_data;
	loff_t at = kiocb->ki_pos, end, size = twin_size(twin);
	ssize_t done;
	int err = 0;

	if (!iov_iter_count(from))
		return 0;
	if (at >= size)
		return -ENOSPC;
	end = at + min_t(loff_t, iov_iter_count(from), size - at);
	mutex_lock(&twin->writers);
	while (at < end) {
		struct folio *folio;
		size_t offset, length, copied, fault_in;

		if (fatal_signal_pending(current)) {
			err = -EINTR;
			break;
		}
		folio = filemap_lock_folio(twin->mapping, at >> PAGE_SHIFT);
		if (IS_ERR(folio)) {
			err = -EIO;
			break;
		}
		offset = offset_in_folio(folio, at);
		length = twin_accessible(folio, offset, end - at);
		/* No fault is taken with the lock held: it might wait for it. */
		copied = length ? copy_folio_from_iter_atomic(folio, offset, length, from) : 0;
		folio_unlock(folio);
		folio_put(folio);
		at += copied;
		if (!length) {
			err = -EIO;
			break;
		}
		if (copied < length) {
			/* What does not fit is let alone. */
			fault_in = min_t(size_t, PMD_SIZE, end - at);
			if (fault_in_iov_iter_readable(from, fault_in) == fault_in) {
				err = -EFAULT;
				break;
			}
		}
	}
	mutex_unlock(&twin->writers);
	done = at - kiocb->ki_pos;
	kiocb->ki_pos = at;
	return done ? done : err;
}

static int twin_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct twin *twin = file->private_data;
	unsigned long count = vma_pages(vma);
	pgoff_t end;

	if (check_add_overflow(vma->vm_pgoff, count, &end) || end > twin->page_count)
		return -ENXIO;
	if (vma->vm_flags & VM_EXEC)
		return -EPERM;
	/* The VMA is not in the tree yet: there is nobody to lock it against. */
	vm_flags_init(vma, vma->vm_flags & ~VM_MAYEXEC);

	if (count == 1 && !(vma->vm_flags & VM_LOCKED)) {
		struct folio *folio = filemap_lock_folio(twin->mapping, vma->vm_pgoff);
		vm_flags_t before = vma->vm_flags;
		int err = 0;

		if (!IS_ERR(folio)) {
			struct page *page = folio_file_page(folio, vma->vm_pgoff);

			if (!PageHWPoison(page)) {
				/* VM_MIXEDMAP is for pages without a reference: these have one. */
				vm_flags_init(vma, before | VM_MIXEDMAP);
				err = vm_insert_page(vma, vma->vm_start, page);
				vm_flags_init(vma, before);
			}
			folio_unlock(folio);
			folio_put(folio);
			if (err)
				return err;
		}
	}
	vma->vm_ops = &twin_vm_ops;
	return 0;
}

static loff_t twin_llseek(struct file *file, loff_t offset, int whence)
{
	struct twin *twin = file->private_data;

	return fixed_size_llseek(file, offset, whence, twin_size(twin));
}

static int twin_clear(struct twin *twin)
{
	pgoff_t index;
	int err = 0;

	mutex_lock(&twin->writers);
	for (index = 0; index < twin->page_count; index++) {
		struct folio *folio;

		if (fatal_signal_pending(current)) {
			err = -EINTR;
			break;
		}
		folio = filemap_lock_folio(twin->mapping, index);
		if (IS_ERR(folio)) {
			err = -EIO;
			continue;
		}
		if (PageHWPoison(folio_file_page(folio, index)))
			err = -EIO;
		else
			clear_highpage(folio_file_page(folio, index));
		folio_unlock(folio);
		folio_put(folio);
	}
	mutex_unlock(&twin->writers);
	return err;
}

static long twin_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct twin *twin = file->private_data;
	struct rust_mmapdev_info info = {
		.size		= twin_size(twin),
		.page_size	= PAGE_SIZE,
		.abi_version	= RUST_MMAPDEV_ABI_VERSION,
	};

	switch (cmd) {
	case RUST_MMAPDEV_IOC_INFO:
		return copy_to_user((void __user *)arg, &info, sizeof(info)) ? -EFAULT : 0;
	case RUST_MMAPDEV_IOC_CLEAR:
		if ((file->f_flags & O_ACCMODE) != O_RDWR && (file->f_flags & O_ACCMODE) != O_WRONLY)
			return -EBADF;
		return twin_clear(twin);
	default:
		return -ENOTTY;
	}
}

static void twin_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct twin *twin = file->private_data;

	seq_printf(m, "buffer_size:\t%lld\n", twin_size(twin));
	seq_printf(m, "page_count:\t%lu\n", twin->page_count);
	seq_printf(m, "huge_size:\t%zu\n", twin_huge_size(twin));
}

static const struct file_operations twin_fops = {
	.owner			= THIS_MODULE,
	.open			= twin_open,
	.release		= twin_release,
	.llseek			= twin_llseek,
	.read_iter		= twin_read_iter,
	.write_iter		= twin_write_iter,
	.splice_read		= copy_splice_read,
	.splice_write		= iter_file_splice_write,
	.mmap			= twin_mmap,
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
	.get_unmapped_area	= thp_get_unmapped_area,
#endif
	.fsync			= noop_fsync,
	.unlocked_ioctl		= twin_ioctl,
	.compat_ioctl		= compat_ptr_ioctl,
	.show_fdinfo		= twin_show_fdinfo,
};

static struct twin twin = {
	.misc = {
		.minor	= MISC_DYNAMIC_MINOR,
		.name	= KBUILD_MODNAME,
		.fops	= &twin_fops,
	},
	.writers = __MUTEX_INITIALIZER(twin.writers),
};

static int __init twin_init(void)
{
	struct folio *folio;
	void *start;
	int err;

	if (buffer_pages < 1 || buffer_pages > TWIN_MAX_PAGES) {
		pr_err("buffer_pages=%ld is out of range: 1 to %d\n", buffer_pages, TWIN_MAX_PAGES);
		return -EINVAL;
	}
	twin.page_count = buffer_pages;
	err = twin_alloc_pages(&twin);
	if (err) {
		pr_err("can't allocate %ld pages: %d\n", buffer_pages, err);
		return err;
	}

	folio = filemap_get_folio(twin.mapping, 0);
	if (!IS_ERR(folio)) {
		start = kmap_local_folio(folio, 0);
		memcpy(start, initial_content, sizeof(initial_content));
		kunmap_local(start);
		folio_put(folio);
	}
	pr_info("buffer of %lld bytes, page count %lu, %zu bytes in %lu MiB folios\n",
		twin_size(&twin), twin.page_count, twin_huge_size(&twin), PMD_SIZE >> 20);

	err = misc_register(&twin.misc);
	if (err)
		__fput_sync(twin.file);
	return err;
}

static void __exit twin_exit(void)
{
	misc_deregister(&twin.misc);
	__fput_sync(twin.file);
}

module_init(twin_init);
module_exit(twin_exit);
MODULE_DESCRIPTION("rust_mmapdev in C, for the benchmark");
MODULE_LICENSE("GPL");
