/* SHA-256 (FIPS 180-4 section 6.2) with the CPU's SHA instructions where present, and the receipt chain. */
#include "internal.h"

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define FK_SHA_X86 1
#define FK_SHA_TARGET __attribute__((target("sha,sse4.1,ssse3")))
#include <cpuid.h>
#include <immintrin.h>
#elif defined(_M_X64)
#define FK_SHA_X86 1
#define FK_SHA_TARGET
#include <immintrin.h>
#include <intrin.h>
#elif defined(__aarch64__) && defined(__ARM_FEATURE_SHA2)
#define FK_SHA_ARM 1
#include <arm_neon.h>
#endif

static const uint32_t K[64] = {
    0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u, 0xab1c5ed5u,
    0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu, 0x9bdc06a7u, 0xc19bf174u,
    0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu, 0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau,
    0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u, 0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u,
    0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu, 0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u,
    0xa2bfe8a1u, 0xa81a664bu, 0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u,
    0x19a4c116u, 0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
    0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u, 0xc67178f2u};

static const uint32_t INITIAL[8] = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                                    0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};

static uint32_t rotr(uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

static void compress_portable(uint32_t h[8], const uint8_t *data, size_t blocks) {
    while (blocks--) {
        uint32_t w[64];
        for (int i = 0; i < 16; i++, data += 4)
            w[i] = (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 | data[3];
        for (int i = 16; i < 64; i++) {
            uint32_t s0 = rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
            uint32_t s1 = rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
            w[i] = w[i - 16] + s0 + w[i - 7] + s1;
        }
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], k = h[7];
        for (int i = 0; i < 64; i++) {
            uint32_t t1 = k + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i];
            uint32_t t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
            k = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e, h[5] += f, h[6] += g, h[7] += k;
    }
}

#if defined(FK_SHA_X86)

FK_SHA_TARGET static void compress_x86(uint32_t h[8], const uint8_t *data, size_t blocks) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    /* the instructions keep the state as ABEF and CDGH */
    __m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(const void *)&h[0]), 0xB1);
    __m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(const void *)&h[4]), 0x1B);
    __m128i abef = _mm_alignr_epi8(low, high, 8);
    __m128i cdgh = _mm_blend_epi16(high, low, 0xF0);

    while (blocks--) {
        const __m128i abef_in = abef, cdgh_in = cdgh;
        __m128i w[4];
        for (int i = 0; i < 4; i++, data += 16)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)data), swap);
        for (int i = 0; i < 16; i++) {
            __m128i k = _mm_loadu_si128((const __m128i *)(const void *)&K[4 * i]);
            __m128i m = _mm_add_epi32(w[i & 3], k);
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, m);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(m, 0x0E));
            if (i < 12) { /* the four words this group of rounds used are replaced by those 16 rounds on */
                __m128i next = _mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]);
                next = _mm_add_epi32(next, _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4));
                w[i & 3] = _mm_sha256msg2_epu32(next, w[(i + 3) & 3]);
            }
        }
        abef = _mm_add_epi32(abef, abef_in);
        cdgh = _mm_add_epi32(cdgh, cdgh_in);
    }

    low = _mm_shuffle_epi32(abef, 0x1B);
    high = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128((__m128i *)(void *)&h[0], _mm_blend_epi16(low, high, 0xF0));
    _mm_storeu_si128((__m128i *)(void *)&h[4], _mm_alignr_epi8(high, low, 8));
}

static int cpu_has_sha(void) {
#if defined(_M_X64)
    int r[4];
    __cpuid(r, 0);
    if (r[0] < 7) return 0;
    __cpuidex(r, 7, 0);
    int sha = (r[1] >> 29) & 1;
    __cpuid(r, 1);
    return sha && ((r[2] >> 19) & 1) && ((r[2] >> 9) & 1);
#else
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !((b >> 29) & 1u)) return 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    return ((c >> 19) & 1u) && ((c >> 9) & 1u);
#endif
}

#elif defined(FK_SHA_ARM)

static void compress_arm(uint32_t h[8], const uint8_t *data, size_t blocks) {
    uint32x4_t abcd = vld1q_u32(&h[0]), efgh = vld1q_u32(&h[4]);
    while (blocks--) {
        const uint32x4_t abcd_in = abcd, efgh_in = efgh;
        uint32x4_t w[4];
        for (int i = 0; i < 4; i++, data += 16) w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data)));
        for (int i = 0; i < 16; i++) {
            uint32x4_t m = vaddq_u32(w[i & 3], vld1q_u32(&K[4 * i]));
            uint32x4_t before = abcd;
            abcd = vsha256hq_u32(abcd, efgh, m);
            efgh = vsha256h2q_u32(efgh, before, m);
            if (i < 12)
                w[i & 3] = vsha256su1q_u32(vsha256su0q_u32(w[i & 3], w[(i + 1) & 3]), w[(i + 2) & 3], w[(i + 3) & 3]);
        }
        abcd = vaddq_u32(abcd, abcd_in);
        efgh = vaddq_u32(efgh, efgh_in);
    }
    vst1q_u32(&h[0], abcd);
    vst1q_u32(&h[4], efgh);
}

#endif

#if defined(FK_SHA_X86)
/*
 * What the CPU can, asked once: CPUID traps to the hypervisor on virtual machines and then costs more than
 * the hash. 0 = not asked yet, 1 = no, 2 = yes. Every thread stores the same value.
 */
#if defined(_MSC_VER)
static volatile long sha_support;
#define LOAD_SUPPORT() (sha_support)
#define STORE_SUPPORT(v) (sha_support = (v))
#else
#include <stdatomic.h>
static atomic_int sha_support;
#define LOAD_SUPPORT() atomic_load_explicit(&sha_support, memory_order_relaxed)
#define STORE_SUPPORT(v) atomic_store_explicit(&sha_support, (v), memory_order_relaxed)
#endif
#endif

int fk_sha256_accelerated(void) {
#if defined(FK_SHA_X86)
    int known = (int)LOAD_SUPPORT();
    if (known == 0) {
        known = cpu_has_sha() ? 2 : 1;
        STORE_SUPPORT(known);
    }
    return known == 2;
#elif defined(FK_SHA_ARM)
    return 1;
#else
    return 0;
#endif
}

static void compress(uint32_t h[8], const uint8_t *data, size_t blocks) {
#if defined(FK_SHA_X86)
    if (fk_sha256_accelerated()) {
        compress_x86(h, data, blocks);
        return;
    }
#elif defined(FK_SHA_ARM)
    compress_arm(h, data, blocks);
    return;
#endif
    compress_portable(h, data, blocks);
}

int fk_sha256(const uint8_t *data, size_t length, uint8_t *out) {
    uint32_t h[8];
    uint8_t tail[128];
    size_t whole = length / 64, rest = length % 64;
    size_t tail_blocks = rest < 56 ? 1 : 2;
    uint64_t bits = (uint64_t)length * 8u;

    memcpy(h, INITIAL, sizeof h);
    if (whole) compress(h, data, whole);

    memset(tail, 0, sizeof tail);
    if (rest) memcpy(tail, data + whole * 64, rest);
    tail[rest] = 0x80;
    for (size_t i = 0; i < 8; i++) tail[tail_blocks * 64 - 1 - i] = (uint8_t)(bits >> (8 * i));
    compress(h, tail, tail_blocks);

    for (size_t i = 0; i < 8; i++) {
        out[4 * i] = (uint8_t)(h[i] >> 24);
        out[4 * i + 1] = (uint8_t)(h[i] >> 16);
        out[4 * i + 2] = (uint8_t)(h[i] >> 8);
        out[4 * i + 3] = (uint8_t)h[i];
    }
    return FK_OK;
}

static uint8_t *put_le64(uint8_t *at, int64_t value) {
    uint64_t v = (uint64_t)value;
    for (int i = 0; i < 8; i++) *at++ = (uint8_t)(v >> (8 * i));
    return at;
}

int fk_chain_hash(const uint8_t *previous, const uint8_t *journal_id, int64_t moment_ticks, int64_t number,
                  const uint8_t *request_hash, const uint8_t *response_hash, uint8_t *out) {
    uint8_t input[128], *at = input;
    if (previous) {
        memcpy(at, previous, 32);
        at += 32;
    }
    memcpy(at, journal_id, 16);
    at = put_le64(at + 16, moment_ticks);
    at = put_le64(at, number);
    memcpy(at, request_hash, 32);
    memcpy(at + 32, response_hash, 32);
    return fk_sha256(input, (size_t)(at + 64 - input), out);
}

int fk_complete(const uint8_t *previous, const uint8_t *journal_id, int64_t moment_ticks, int64_t number,
                const uint8_t *request_hash, const uint8_t *response, size_t response_length, fk_completed *out) {
    fk_sha256(response, response_length, out->response_hash);
    fk_chain_hash(previous, journal_id, moment_ticks, number, request_hash, out->response_hash, out->chain_hash);
    base64_encode(out->response_hash, 32, out->response_hash_base64);
    base64_encode(out->chain_hash, 32, out->chain_hash_base64);
    return FK_OK;
}
