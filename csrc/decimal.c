/* Exact decimals with the range of System.Decimal, and sums that never round. */
#include "internal.h"

#define MAX_SCALE 28

static const uint64_t POWER_OF_TEN[20] = {UINT64_C(1),
                                          UINT64_C(10),
                                          UINT64_C(100),
                                          UINT64_C(1000),
                                          UINT64_C(10000),
                                          UINT64_C(100000),
                                          UINT64_C(1000000),
                                          UINT64_C(10000000),
                                          UINT64_C(100000000),
                                          UINT64_C(1000000000),
                                          UINT64_C(10000000000),
                                          UINT64_C(100000000000),
                                          UINT64_C(1000000000000),
                                          UINT64_C(10000000000000),
                                          UINT64_C(100000000000000),
                                          UINT64_C(1000000000000000),
                                          UINT64_C(10000000000000000),
                                          UINT64_C(100000000000000000),
                                          UINT64_C(1000000000000000000),
                                          UINT64_C(10000000000000000000)};

/* ---- 256-bit integers ---------------------------------------------------------------------- */

static wide wide_from(uint64_t low, uint32_t high) {
    wide r = {{(uint32_t)low, (uint32_t)(low >> 32), high, 0, 0, 0, 0, 0}};
    return r;
}

static wide wide_add(wide a, const wide *b) {
    uint64_t carry = 0;
    for (int i = 0; i < 8; i++) {
        carry += (uint64_t)a.word[i] + b->word[i];
        a.word[i] = (uint32_t)carry;
        carry >>= 32;
    }
    return a;
}

static wide wide_negate(wide a) {
    const wide one = {{1, 0, 0, 0, 0, 0, 0, 0}};
    for (int i = 0; i < 8; i++) a.word[i] = ~a.word[i];
    return wide_add(a, &one);
}

static int wide_is_zero(const wide *a) {
    uint32_t any = 0;
    for (int i = 0; i < 8; i++) any |= a->word[i];
    return any == 0;
}

static int wide_compare(const wide *a, const wide *b) {
    for (int i = 7; i >= 0; i--)
        if (a->word[i] != b->word[i]) return a->word[i] < b->word[i] ? -1 : 1;
    return 0;
}

static void wide_multiply(wide *a, uint32_t factor) {
    uint64_t carry = 0;
    for (int i = 0; i < 8; i++) {
        carry += (uint64_t)a->word[i] * factor;
        a->word[i] = (uint32_t)carry;
        carry >>= 32;
    }
}

static uint32_t wide_divide(wide *a, uint32_t divisor) { /* returns the remainder */
    uint64_t rest = 0;
    for (int i = 7; i >= 0; i--) {
        rest = rest << 32 | a->word[i];
        a->word[i] = (uint32_t)(rest / divisor);
        rest %= divisor;
    }
    return (uint32_t)rest;
}

static void wide_scale_up(wide *a, int digits) {
    for (; digits >= 9; digits -= 9) wide_multiply(a, 1000000000u);
    if (digits > 0) wide_multiply(a, (uint32_t)POWER_OF_TEN[digits]);
}

static int wide_cut(wide *a, int digits) { /* drops digits; returns 1 if any of them was not 0 */
    int lost = 0;
    for (; digits >= 9; digits -= 9) lost |= wide_divide(a, 1000000000u) != 0;
    if (digits > 0) lost |= wide_divide(a, (uint32_t)POWER_OF_TEN[digits]) != 0;
    return lost;
}

/* Half away from zero looks at the first digit dropped and at nothing else. */
static void wide_round(wide *a, int digits) {
    if (digits <= 0) return;
    wide_cut(a, digits - 1);
    if (wide_divide(a, 10) >= 5) {
        const wide one = {{1, 0, 0, 0, 0, 0, 0, 0}};
        *a = wide_add(*a, &one);
    }
}

/* a / b rounded half away from zero, bit by bit; a < 2^255 */
static wide wide_quotient(wide a, const wide *b) {
    wide quotient = {{0}}, rest = {{0}};
    const wide minus_b = wide_negate(*b);
    for (int bit = 255; bit >= 0; bit--) {
        rest = wide_add(rest, &rest);
        rest.word[0] |= (a.word[bit / 32] >> (bit % 32)) & 1u;
        if (wide_compare(&rest, b) >= 0) {
            rest = wide_add(rest, &minus_b);
            quotient.word[bit / 32] |= (uint32_t)1 << (bit % 32);
        }
    }
    rest = wide_add(rest, &rest);
    if (wide_compare(&rest, b) >= 0) {
        const wide one = {{1, 0, 0, 0, 0, 0, 0, 0}};
        quotient = wide_add(quotient, &one);
    }
    return quotient;
}

/* ---- text ------------------------------------------------------------------------------------ */

static int digits_of_u64(uint64_t value, char *end) { /* written backwards from end; returns their number */
    int n = 0;
    do {
        end[-++n] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    return n;
}

static int digits_of_wide(wide value, char *end) {
    int n = 0;
    while (value.word[2] | value.word[3] | value.word[4] | value.word[5] | value.word[6] | value.word[7]) {
        uint32_t group = wide_divide(&value, 1000000000u);
        for (int i = 0; i < 9; i++, group /= 10) end[-++n] = (char)('0' + group % 10);
    }
    uint64_t low = (uint64_t)value.word[1] << 32 | value.word[0];
    if (low || n == 0) return n + digits_of_u64(low, end - n);
    while (n > 1 && end[-n] == '0') n--;
    return n;
}

/* digits as an integer, a decimal point before the last `scale` of them, at least one before the point */
static int place_point(const char *digits, int count, int scale, int negative, char *out) {
    char *at = out;
    if (negative && !(count == 1 && digits[0] == '0')) *at++ = '-';
    int whole = count - scale;
    if (whole > 0) {
        memcpy(at, digits, (size_t)whole);
        at += whole, digits += whole, count = scale;
    } else {
        *at++ = '0';
    }
    if (scale > 0) {
        *at++ = '.';
        for (int i = count; i < scale; i++) *at++ = '0';
        memcpy(at, digits, (size_t)count);
        at += count;
    }
    return (int)(at - out);
}

static int format_wide(const wide *value, int scale, int negative, char *out) {
    char digits[80], *end = digits + sizeof digits;
    int count = digits_of_wide(*value, end);
    return place_point(end - count, count, scale, negative, out);
}

static int format_u64(uint64_t value, int scale, int negative, char *out) {
    char digits[24], *end = digits + sizeof digits;
    int count = digits_of_u64(value, end);
    return place_point(end - count, count, scale, negative, out);
}

int format_int64(int64_t value, char *out) {
    return format_u64(value < 0 ? 0u - (uint64_t)value : (uint64_t)value, 0, value < 0, out);
}

static int with_one_decimal(int length, int scale, char *out) {
    if (scale == 0) {
        out[length++] = '.';
        out[length++] = '0';
    }
    return length;
}

static int without_trailing_zeros(int length, int scale, const char *out) {
    if (scale == 0) return length;
    while (out[length - 1] == '0') length--;
    return out[length - 1] == '.' ? length - 1 : length;
}

static int places_of(fk_decimal_form form) {
    return form == FK_FORM_AMOUNT ? 2 : form == FK_FORM_QUANTITY ? 10 : MAX_SCALE;
}

static int format_magnitude(wide value, int scale, int negative, fk_decimal_form form, char *out) {
    int places = places_of(form), length;
    if (scale > places) {
        wide_round(&value, scale - places);
        scale = places;
    }
    if (form == FK_FORM_AMOUNT) {
        wide_scale_up(&value, 2 - scale);
        scale = 2;
    }
    if (!(value.word[2] | value.word[3] | value.word[4] | value.word[5] | value.word[6] | value.word[7]))
        length = format_u64((uint64_t)value.word[1] << 32 | value.word[0], scale, negative, out);
    else
        length = format_wide(&value, scale, negative, out);
    if (form == FK_FORM_CANONICAL) return with_one_decimal(length, scale, out);
    return form == FK_FORM_QUANTITY ? without_trailing_zeros(length, scale, out) : length;
}

static int format_small(uint64_t value, int scale, int negative, fk_decimal_form form, char *out) {
    int places = places_of(form);
    if (scale > places + 18 || (form == FK_FORM_AMOUNT && scale < 2 && value > UINT64_MAX / 100))
        return format_magnitude(wide_from(value, 0), scale, negative, form, out);
    if (scale > places) {
        value /= POWER_OF_TEN[scale - places - 1];
        value = value / 10 + (value % 10 >= 5);
        scale = places;
    }
    if (form == FK_FORM_AMOUNT) {
        value *= POWER_OF_TEN[2 - scale];
        scale = 2;
    }
    int length = format_u64(value, scale, negative, out);
    if (form == FK_FORM_CANONICAL) return with_one_decimal(length, scale, out);
    return form == FK_FORM_QUANTITY ? without_trailing_zeros(length, scale, out) : length;
}

int fk_decimal_format(const fk_decimal *value, fk_decimal_form form, char *out) {
    if (value->high == 0) return format_small(value->low, value->scale, value->negative, form, out);
    return format_magnitude(wide_from(value->low, value->high), value->scale, value->negative, form, out);
}

/* ---- reading ---------------------------------------------------------------------------------- */

/* [sign] digits [. digits] [e exponent], taken apart */
typedef struct number_text {
    const char *digits; /* the first digit; a point may stand between the digits */
    const char *end;    /* behind the last digit */
    int64_t scale;      /* of the last digit; negative if zeros are to be appended */
    int negative;
} number_text;

static int is_digit(char c) { return c >= '0' && c <= '9'; }

static int number_split(const char *at, size_t length, number_text *out) {
    const char *end = at + length;
    while (at < end && *at == ' ') at++;
    while (at < end && end[-1] == ' ') end--;
    out->negative = at < end && *at == '-';
    if (at < end && (*at == '-' || *at == '+')) at++;
    out->digits = at;
    while (at < end && is_digit(*at)) at++;
    if (at == out->digits) return FK_E_TYPE;
    out->scale = 0;
    if (at < end && *at == '.') {
        const char *fraction = ++at;
        while (at < end && is_digit(*at)) at++;
        if (at == fraction) return FK_E_TYPE;
        out->scale = at - fraction;
    }
    out->end = at;
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        int minus = at < end && *at == '-';
        if (at < end && (*at == '-' || *at == '+')) at++;
        if (at == end) return FK_E_TYPE;
        int64_t exponent = 0;
        for (; at < end && is_digit(*at); at++)
            if (exponent < INT64_C(1000000000000)) exponent = exponent * 10 + (*at - '0');
        out->scale += minus ? exponent : -exponent;
    }
    return at == end ? FK_OK : FK_E_TYPE;
}

/* value * 10 + digit, 0 if that needs more than 96 bits */
static int append_digit(fk_decimal *d, uint32_t digit) {
    uint64_t part = (d->low & 0xffffffffu) * 10 + digit;
    uint64_t low = part & 0xffffffffu;
    part = (d->low >> 32) * 10 + (part >> 32);
    low |= part << 32;
    uint64_t high = (uint64_t)d->high * 10 + (part >> 32);
    if (high > UINT32_MAX) return 0;
    d->low = low;
    d->high = (uint32_t)high;
    return 1;
}

static int round_up(fk_decimal *d) {
    if (++d->low != 0 || ++d->high != 0) return FK_OK;
    /* 2^96 does not fit: one decimal less, and 2^96 / 10 rounded is this */
    if (d->scale == 0) return FK_E_OVERFLOW;
    d->high = 0x19999999u;
    d->low = UINT64_C(0x999999999999999a);
    d->scale--;
    return FK_OK;
}

int fk_decimal_parse(const char *text, size_t length, fk_decimal *out) {
    number_text n;
    int status = number_split(text, length, &n);
    if (status != FK_OK) return status;

    const char *at = n.digits;
    while (at < n.end && (*at == '0' || *at == '.')) at++; /* leading zeros */
    int64_t left = 0;                                      /* significant digits not yet taken */
    for (const char *p = at; p < n.end; p++) left += *p != '.';

    fk_decimal d = {0, 0, 0, 0};
    int64_t scale = n.scale - left; /* of what is in d */
    if (left == 0) {                /* zero keeps its scale */
        d.scale = (uint8_t)(n.scale < 0 ? 0 : n.scale > MAX_SCALE ? MAX_SCALE : n.scale);
        *out = d;
        return FK_OK;
    }
    if (left <= 19 && n.scale >= 0 && n.scale <= MAX_SCALE) {
        for (; at < n.end; at++)
            if (*at != '.') d.low = d.low * 10 + (uint64_t)(*at - '0');
        d.scale = (uint8_t)n.scale;
        d.negative = (uint8_t)n.negative;
        *out = d;
        return FK_OK;
    }

    uint32_t next = 0; /* first digit that is dropped */
    int more = 0;      /* any digit behind it but 0 */
    for (; left > 0 && scale < MAX_SCALE; at++) {
        if (*at == '.') continue;
        if (!append_digit(&d, (uint32_t)(*at - '0'))) break;
        scale++, left--;
    }
    for (; left == 0 && scale < 0; scale++)
        if (!append_digit(&d, 0)) return FK_E_OVERFLOW;
    if (scale < 0) return FK_E_OVERFLOW;
    if (left > 0) {
        if (scale <= MAX_SCALE) { /* else the first digit stands behind the 29th decimal */
            while (*at == '.') at++;
            next = (uint32_t)(*at++ - '0');
        } else {
            scale = MAX_SCALE;
        }
        for (; at < n.end; at++) more |= *at != '.' && *at != '0';
    }
    d.scale = (uint8_t)scale;
    if (next > 5 || (next == 5 && (more || (d.low & 1)))) {
        status = round_up(&d);
        if (status != FK_OK) return status;
    }
    d.negative = (uint8_t)(n.negative && !decimal_is_zero(&d));
    *out = d;
    return FK_OK;
}

int integer_parse(const char *digits, size_t length, int64_t *out) {
    number_text n;
    int status = number_split(digits, length, &n);
    if (status != FK_OK) return status;
    const char *end = n.end;
    for (; n.scale > 0; n.scale--) { /* a fraction is fine as long as it is zero */
        while (end > n.digits && end[-1] == '.') end--;
        if (end == n.digits) break;
        if (*--end != '0') return FK_E_RANGE;
    }
    uint64_t value = 0;
    for (const char *at = n.digits; at < end; at++) {
        if (*at == '.') continue;
        uint64_t digit = (uint64_t)(*at - '0');
        if (value > (UINT64_MAX - digit) / 10) return FK_E_RANGE;
        value = value * 10 + digit;
    }
    for (; value && n.scale < 0; n.scale++) {
        if (value > UINT64_MAX / 10) return FK_E_RANGE;
        value *= 10;
    }
    if (value > (uint64_t)INT64_MAX + (n.negative ? 1u : 0u)) return FK_E_RANGE;
    *out = !n.negative ? (int64_t)value : value > INT64_MAX ? INT64_MIN : -(int64_t)value;
    return FK_OK;
}

/* ---- sums --------------------------------------------------------------------------------------- */

static void add_large(exact_sum *s, wide value, int scale, int negative) {
    wide_scale_up(&value, MAX_SCALE - scale);
    if (negative) value = wide_negate(value);
    s->large = s->has_large ? wide_add(s->large, &value) : value;
    s->has_large = 1;
}

static uint64_t magnitude(int64_t value) { return value < 0 ? 0u - (uint64_t)value : (uint64_t)value; }

/* small += mantissa / 10^scale; 0 if that needs more than 64 bits */
static int add_small(exact_sum *s, int64_t mantissa, int scale) {
    int64_t sum = s->small;
    if (sum == 0) {
        s->small = mantissa;
        s->small_scale = scale;
        return 1;
    }
    int difference = scale - s->small_scale;
    if (difference > 18 || difference < -18) return 0;
    if (difference < 0) {
        int64_t factor = (int64_t)POWER_OF_TEN[-difference];
        if (magnitude(mantissa) > (uint64_t)(INT64_MAX / factor)) return 0;
        mantissa *= factor;
        scale = s->small_scale;
    } else if (difference > 0) {
        int64_t factor = (int64_t)POWER_OF_TEN[difference];
        if (magnitude(sum) > (uint64_t)(INT64_MAX / factor)) return 0;
        sum *= factor;
    }
    if (mantissa > 0 ? sum > INT64_MAX - mantissa : sum < -INT64_MAX - mantissa) return 0;
    s->small = sum + mantissa;
    s->small_scale = scale;
    return 1;
}

void sum_add(exact_sum *s, const fk_decimal *value, int negate) {
    int negative = value->negative ^ (negate != 0);
    if (value->scale > s->scale) s->scale = value->scale;
    if (value->high == 0 && value->low <= INT64_MAX &&
        add_small(s, negative ? -(int64_t)value->low : (int64_t)value->low, value->scale))
        return;
    add_large(s, wide_from(value->low, value->high), value->scale, negative);
}

static void sum_magnitude(const exact_sum *s, wide *out, int *scale, int *negative) {
    exact_sum copy = *s;
    if (!copy.has_large) {
        *out = wide_from(magnitude(copy.small), 0);
        *scale = copy.small_scale;
        *negative = copy.small < 0;
        return;
    }
    add_large(&copy, wide_from(magnitude(copy.small), 0), copy.small_scale, copy.small < 0);
    *negative = (int)(copy.large.word[7] >> 31);
    *out = *negative ? wide_negate(copy.large) : copy.large;
    *scale = MAX_SCALE;
}

int sum_sign(const exact_sum *s) {
    if (!s->has_large) return (s->small > 0) - (s->small < 0);
    wide value;
    int scale, negative;
    sum_magnitude(s, &value, &scale, &negative);
    return wide_is_zero(&value) ? 0 : negative ? -1 : 1;
}

static void to_common_scale(const exact_sum *s, wide *out, int *negative) {
    int scale;
    sum_magnitude(s, out, &scale, negative);
    wide_scale_up(out, MAX_SCALE - scale);
    if (wide_is_zero(out)) *negative = 0;
}

int sum_equal(const exact_sum *a, const exact_sum *b) {
    if (!a->has_large && !b->has_large && a->small_scale == b->small_scale) return a->small == b->small;
    wide left, right;
    int left_negative, right_negative;
    to_common_scale(a, &left, &left_negative);
    to_common_scale(b, &right, &right_negative);
    return left_negative == right_negative && wide_compare(&left, &right) == 0;
}

int sum_has_more_than_two_decimals(const exact_sum *s) {
    wide value;
    int scale, negative;
    sum_magnitude(s, &value, &scale, &negative);
    return scale > 2 && wide_cut(&value, scale - 2);
}

int sum_format(const exact_sum *s, fk_decimal_form form, char *out) {
    if (!s->has_large && (form == FK_FORM_AMOUNT || s->small_scale == s->scale))
        return format_small(magnitude(s->small), s->small_scale, s->small < 0, form, out);
    wide value;
    int scale, negative;
    sum_magnitude(s, &value, &scale, &negative);
    if (form == FK_FORM_CANONICAL) { /* only zeros are dropped or appended */
        wide_cut(&value, scale - s->scale);
        wide_scale_up(&value, s->scale - scale);
        scale = s->scale;
    }
    return format_magnitude(value, scale, negative, form, out);
}

/* ---- arithmetic ----------------------------------------------------------------------------------- */

static void store(const wide *value, int scale, fk_decimal *out) { /* value < 2^96; the sign stays */
    out->low = (uint64_t)value->word[1] << 32 | value->word[0];
    out->high = value->word[2];
    out->scale = (uint8_t)scale;
    if (decimal_is_zero(out)) out->negative = 0;
}

int fk_decimal_compare(const fk_decimal *left, const fk_decimal *right) {
    exact_sum difference;
    sum_clear(&difference);
    sum_add(&difference, left, 0);
    sum_add(&difference, right, 1);
    return sum_sign(&difference);
}

void decimal_cut(fk_decimal *d, int places) {
    if (d->scale <= places) return;
    wide value = wide_from(d->low, d->high);
    wide_cut(&value, d->scale - places);
    store(&value, places, d);
}

int fk_unit_price(const fk_decimal *amount, const fk_decimal *quantity, char *out) {
    if (decimal_is_zero(quantity)) return format_u64(0, 2, 0, out);
    /* amount / quantity * 100 = numerator / denominator */
    int shift = quantity->scale + 2 - amount->scale;
    if (!amount->high && !quantity->high && shift >= 0 && shift <= 18 &&
        amount->low <= UINT64_MAX / 4 / POWER_OF_TEN[shift] && quantity->low <= UINT64_MAX / 4) {
        uint64_t numerator = amount->low * POWER_OF_TEN[shift];
        uint64_t price = numerator / quantity->low;
        if (2 * (numerator % quantity->low) >= quantity->low) price++;
        return format_u64(price, 2, 0, out);
    }
    wide numerator = wide_from(amount->low, amount->high), denominator = wide_from(quantity->low, quantity->high);
    wide_scale_up(&numerator, shift);
    wide_scale_up(&denominator, -shift);
    wide price = wide_quotient(numerator, &denominator);
    return format_wide(&price, 2, 0, out);
}

int decimal_is_tenths(const fk_decimal *d, uint64_t tenths) {
    if (d->negative || d->high) {
        if (d->negative) return 0;
    } else if (d->scale == 0) {
        return d->low <= tenths && d->low * 10 == tenths;
    } else if (d->scale <= 15) {
        return d->low == tenths * POWER_OF_TEN[d->scale - 1];
    }
    const fk_decimal other = {tenths, 0, 1, 0};
    return fk_decimal_compare(d, &other) == 0;
}
