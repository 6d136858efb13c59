/* The triad of STREAM (McCalpin 1995), a[i] = b[i] + s * c[i], over and over on the same arrays.

   Passes are repeated here, so that a call from Python costs nothing beside them. The empty assembly tells the compiler
   that memory may have changed between two passes: none is left out or joined with the next. */

#include <stddef.h>

__attribute__((noinline)) static void pass(double *restrict a, const double *restrict b, const double *restrict c,
                                           double s, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++)
        a[i] = b[i] + s * c[i];
}

/* Touch every page of three arrays for the first time, in the thread that will use them. */
void fill(double *a, double *b, double *c, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) {
        a[i] = 0.0;
        b[i] = 1.0;
        c[i] = 2.0;
    }
}

void triad(double *a, double *b, double *c, double s, ptrdiff_t n, ptrdiff_t passes) {
    for (ptrdiff_t k = 0; k < passes; k++) {
        __asm__ volatile("" : : "r"(a), "r"(b), "r"(c) : "memory");
        pass(a, b, c, s, n);
        __asm__ volatile("" : : "r"(a) : "memory");
    }
}
