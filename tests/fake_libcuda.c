/* A make-believe NVIDIA driver, so that CuPy's own runtime reports states that a machine without a GPU cannot have.
 *
 *     cc -shared -fPIC -o DIR/libcuda.so.1 fake_libcuda.c
 *     LD_LIBRARY_PATH=DIR FAKE_CUDA_VERSION=13000 FAKE_CUDA_INIT=100 python ...
 *
 * FAKE_CUDA_VERSION is the CUDA version that the driver claims to know; FAKE_CUDA_INIT is what it answers to cuInit:
 * 100 no device, 802 system not ready, 999 unknown error.
 */
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NO_DEVICE = 100 };

static int setting(const char *name, int otherwise) {
    const char *value = getenv(name);
    return value ? atoi(value) : otherwise;
}

static int refuse(void) { return NO_DEVICE; }

int cuInit(unsigned flags) { return setting("FAKE_CUDA_INIT", NO_DEVICE); }

int cuDriverGetVersion(int *version) {
    *version = setting("FAKE_CUDA_VERSION", 13000);
    return SUCCESS;
}

int cuDeviceGetCount(int *count) {
    *count = 0;
    return SUCCESS;
}

int cuGetErrorString(int error, const char **text) {
    *text = "a make-believe error";
    return SUCCESS;
}

int cuGetErrorName(int error, const char **text) { return cuGetErrorString(error, text); }

int cuGetExportTable(const void **table, const void *id) {
    if (table) *table = NULL;
    return NO_DEVICE;
}

/* The CUDA runtime asks for every entry point by name, by way of this one. */
int cuGetProcAddress_v2(const char *name, void **entry, int version, unsigned long long flags, int *found) {
    static const struct { const char *name; void *entry; } known[] = {
        {"cuInit", cuInit},
        {"cuDriverGetVersion", cuDriverGetVersion},
        {"cuDeviceGetCount", cuDeviceGetCount},
        {"cuGetErrorString", cuGetErrorString},
        {"cuGetErrorName", cuGetErrorName},
        {"cuGetExportTable", cuGetExportTable},
        {"cuGetProcAddress", cuGetProcAddress_v2},
    };
    if (found) *found = SUCCESS;
    *entry = refuse;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(name, known[i].name)) *entry = known[i].entry;
    return SUCCESS;
}

int cuGetProcAddress(const char *name, void **entry, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(name, entry, version, flags, NULL);
}
