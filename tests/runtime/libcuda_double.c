/* A test double of NVIDIA's driver library, libcuda.so.1: "device" memory is the host's, and a stream does its work
   only when it is waited for, so that a caller who changes memory too early is found out.  Nothing but what
   poster_edge.runtime uses; anything else is "not found".  DOUBLE_FAIL=NAME makes one function fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int status;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, CAPTURE_INVALID = 901 };

typedef struct op { void *to; const void *from; size_t size; int *stamp; struct op *next; } op;
typedef struct { op *first, *last; int capturing; op *noted, *noted_last; int broken; } stream;
typedef struct { stream *on; op *until; int *stamp; } event;
typedef struct { op *first; } graph;
typedef struct block { char *start; size_t size; int pinned; struct block *next; } block;

static block *blocks;
static int contexts, streams, events, graphs, current;
/* The double's clock: each operation takes a microsecond. */
static int clock_us;

static int fails(const char *name) {
    const char *wanted = getenv("DOUBLE_FAIL");
    return wanted && !strcmp(wanted, name);
}

/* Objects that were not given back. */
int double_live(void) {
    int count = contexts + streams + events + graphs;
    for (block *b = blocks; b; b = b->next) count++;
    return count;
}

static int owned(const void *at, size_t size, int pinned) {
    for (block *b = blocks; b; b = b->next)
        if (b->pinned == pinned && (char *)at >= b->start && (char *)at + size <= b->start + b->size) return 1;
    return 0;
}

static status take(void **out, size_t size, int pinned) {
    if (!current || size == 0 || size > (1u << 30)) return size > (1u << 30) ? OUT_OF_MEMORY : INVALID_VALUE;
    block *b = malloc(sizeof *b);
    b->start = aligned_alloc(256, (size + 255) / 256 * 256);
    memset(b->start, 0xff, size);
    b->size = size, b->pinned = pinned, b->next = blocks, blocks = b;
    *out = b->start;
    return OK;
}

static status give(void *at, int pinned) {
    for (block **b = &blocks; *b; b = &(*b)->next)
        if ((*b)->start == at && (*b)->pinned == pinned) {
            block *gone = *b;
            *b = gone->next;
            free(gone->start), free(gone);
            return OK;
        }
    return INVALID_VALUE;
}

static void append(op **first, op **last, op *one) {
    if (*first) (*last)->next = one; else *first = one;
    *last = one;
}

static op *copy_of(const op *o) {
    op *n = malloc(sizeof *n);
    *n = *o, n->next = NULL;
    return n;
}

static status enqueue(stream *s, void *to, const void *from, size_t size) {
    op one = {to, from, size, NULL, NULL};
    if (s->capturing) append(&s->noted, &s->noted_last, copy_of(&one));
    else append(&s->first, &s->last, copy_of(&one));
    return OK;
}

/* Does the work of a stream up to and including one operation; all of it for NULL. */
static void work(stream *s, op *until) {
    while (s->first) {
        op *o = s->first;
        if (o->size) memcpy(o->to, o->from, o->size), clock_us++;
        if (o->stamp) *o->stamp = clock_us;
        s->first = o->next;
        int last = o == until;
        free(o);
        if (last) break;
    }
}

status cuInit(unsigned flags) { return fails("cuInit") ? 100 : flags ? INVALID_VALUE : OK; }
status cuDriverGetVersion(int *v) { *v = 13000; return OK; }
status cuDeviceGetCount(int *n) { *n = 1; return OK; }
status cuDeviceGet(int *d, int index) { *d = 0; return index ? 101 : OK; }
status cuDeviceGetName(char *name, int size, int d) { (void)d; snprintf(name, size, "double of a GPU"); return OK; }
status cuDeviceGetAttribute(int *v, int which, int d) { (void)d; *v = which == 75 ? 8 : which == 76 ? 6 : 0; return OK; }
status cuDeviceTotalMem(size_t *n, int d) { (void)d; *n = 1u << 30; return OK; }
status cuDevicePrimaryCtxRetain(void **c, int d) {
    (void)d;
    if (fails("cuDevicePrimaryCtxRetain")) return OUT_OF_MEMORY;
    contexts++, *c = &contexts;
    return OK;
}
status cuDevicePrimaryCtxRelease(int d) { (void)d; return contexts-- > 0 ? OK : INVALID_VALUE; }
status cuCtxSetCurrent(void *c) { current = c == &contexts; return current || !c ? OK : 201; }
status cuCtxPushCurrent(void *c) { return cuCtxSetCurrent(c); }
status cuCtxPopCurrent(void **c) { current = 0; if (c) *c = &contexts; return OK; }
status cuCtxGetDevice(int *d) { *d = 0; return current ? OK : 201; }
status cuCtxGetCurrent(void **c) { *c = current ? &contexts : NULL; return OK; }
status cuMemAlloc(uint64_t *p, size_t n) { return fails("cuMemAlloc") ? OUT_OF_MEMORY : take((void **)p, n, 0); }
status cuMemFree(uint64_t p) { return give((void *)p, 0); }
status cuMemHostAlloc(void **p, size_t n, unsigned f) { (void)f; return fails("cuMemHostAlloc") ? OUT_OF_MEMORY : take(p, n, 1); }
status cuMemFreeHost(void *p) { return give(p, 1); }
status cuStreamCreate(stream **s, unsigned flags) { streams++, *s = calloc(1, sizeof **s); return flags == 1 ? OK : INVALID_VALUE; }
status cuStreamDestroy(stream *s) { streams--, free(s); return OK; }
status cuStreamSynchronize(stream *s) {
    if (fails("cuStreamSynchronize")) return 700;
    if (s->capturing) { s->broken = 1; return 900; }
    work(s, NULL);
    return OK;
}
status cuMemcpyHtoDAsync(uint64_t to, const void *from, size_t n, stream *s) {
    return owned((void *)to, n, 0) && owned(from, n, 1) ? enqueue(s, (void *)to, from, n) : INVALID_VALUE;
}
status cuMemcpyDtoHAsync(void *to, uint64_t from, size_t n, stream *s) {
    return owned(to, n, 1) && owned((void *)from, n, 0) ? enqueue(s, to, (void *)from, n) : INVALID_VALUE;
}
status cuMemsetD8Async(uint64_t at, unsigned char value, size_t n, stream *s) {
    (void)value, (void)s;
    return owned((void *)at, n, 0) ? OK : INVALID_VALUE;
}
status cuMemcpyDtoDAsync(uint64_t to, uint64_t from, size_t n, stream *s) {
    if (!owned((void *)from, n, 0) || !owned((void *)to, n, 0)) return INVALID_VALUE;
    return enqueue(s, (void *)to, (void *)from, n);
}
status cuEventCreate(event **e, unsigned flags) { events++, *e = calloc(1, sizeof **e); return flags == 0 ? OK : INVALID_VALUE; }
status cuEventDestroy(event *e) { events--, free(e); return OK; }
status cuEventRecord(event *e, stream *s) {
    enqueue(s, NULL, NULL, 0);
    e->on = s, e->until = s->last;
    /* Never given back: the operation may outlive the event. */
    e->until->stamp = e->stamp = malloc(sizeof *e->stamp);
    *e->stamp = -1;
    return OK;
}
status cuEventElapsedTime(float *ms, event *from, event *to) {
    if (fails("cuEventElapsedTime")) return 700;
    if (*from->stamp < 0 || *to->stamp < 0) return 600;
    *ms = (*to->stamp - *from->stamp) / 1000.0f;
    return OK;
}
status cuEventSynchronize(event *e) {
    if (fails("cuEventSynchronize")) return 700;
    for (op *o = e->on->first; o; o = o->next)
        if (o == e->until) { work(e->on, e->until); break; }
    return OK;
}
status cuStreamBeginCapture(stream *s, int mode) {
    if (s->capturing || mode != 1) return INVALID_VALUE;
    s->capturing = 1, s->broken = 0, s->noted = s->noted_last = NULL;
    return OK;
}
status cuStreamEndCapture(stream *s, graph **g) {
    if (!s->capturing) return INVALID_VALUE;
    s->capturing = 0;
    *g = NULL;
    if (s->broken || fails("cuStreamEndCapture")) return CAPTURE_INVALID;
    graphs++, *g = malloc(sizeof **g), (*g)->first = s->noted;
    return OK;
}
status cuGraphInstantiateWithFlags(graph **ready, graph *g, unsigned long long flags) {
    if (flags || fails("cuGraphInstantiate")) return INVALID_VALUE;
    graphs++, *ready = malloc(sizeof **ready), **ready = *g;
    return OK;
}
status cuGraphInstantiate(graph **ready, graph *g, unsigned long long flags) { return cuGraphInstantiateWithFlags(ready, g, flags); }
status cuGraphDestroy(graph *g) { if (g) graphs--, free(g); return OK; }
status cuGraphExecDestroy(graph *g) { graphs--, free(g); return OK; }
status cuGraphLaunch(graph *g, stream *s) {
    for (op *o = g->first; o; o = o->next) enqueue(s, o->to, o->from, o->size);
    return OK;
}
status cuGetErrorName(status s, const char **t) { *t = s == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR"; return OK; }
status cuGetErrorString(status s, const char **t) { *t = s == OUT_OF_MEMORY ? "out of memory" : "some other failure"; return OK; }

/* cuda-python asks for every function by its plain name here. */
status cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *found) {
    (void)version, (void)flags;
    *function = strcmp(name, "cuGetProcAddress") ? dlsym(RTLD_DEFAULT, name) : (void *)cuGetProcAddress_v2;
    if (!*function) {
        void *self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
        *function = self ? dlsym(self, name) : NULL;
    }
    if (found) *found = *function ? 0 : 1;
    return *function ? OK : NOT_FOUND;
}
status cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}

/* Names with a version, as ctypes and older bindings ask for them. */
#define ALIAS(name, versioned) __typeof__(name) versioned __attribute__((alias(#name)));
ALIAS(cuStreamBeginCapture, cuStreamBeginCapture_v2)
ALIAS(cuMemAlloc, cuMemAlloc_v2)
ALIAS(cuMemFree, cuMemFree_v2)
ALIAS(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2)
ALIAS(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2)
ALIAS(cuStreamDestroy, cuStreamDestroy_v2)
ALIAS(cuMemcpyDtoDAsync, cuMemcpyDtoDAsync_v2)
ALIAS(cuEventDestroy, cuEventDestroy_v2)
ALIAS(cuEventElapsedTime, cuEventElapsedTime_v2)
ALIAS(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2)
ALIAS(cuCtxPushCurrent, cuCtxPushCurrent_v2)
ALIAS(cuCtxPopCurrent, cuCtxPopCurrent_v2)
ALIAS(cuDeviceTotalMem, cuDeviceTotalMem_v2)
