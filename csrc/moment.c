/* Points in time: ISO 8601 and /Date()/ to ticks and back, in the proleptic Gregorian calendar. */
#include "internal.h"

#define TICKS_PER_SECOND INT64_C(10000000)
#define TICKS_PER_DAY (INT64_C(86400) * TICKS_PER_SECOND)
#define UNIX_EPOCH_TICKS INT64_C(621355968000000000)
#define LAST_TICK INT64_C(3155378975999999999) /* 9999-12-31T23:59:59.9999999 */

static const uint8_t DAYS_IN_MONTH[13] = {0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

static int is_leap(int year) { return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0; }

/* Days since 0001-01-01. The year is counted from March, so that the leap day comes last. */
static int64_t days_before(int year, int month, int day) {
    int y = month > 2 ? year : year - 1;
    int m = month > 2 ? month - 3 : month + 9;
    return INT64_C(365) * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 307;
}

int moment_join(int year, int month, int day, int second_of_day, int64_t *ticks) {
    if (year < 1 || year > 9999 || month < 1 || month > 12 || day < 1) return FK_E_MOMENT;
    if (day > DAYS_IN_MONTH[month] + (month == 2 && is_leap(year))) return FK_E_MOMENT;
    *ticks = (days_before(year, month, day) * 86400 + second_of_day) * TICKS_PER_SECOND;
    return FK_OK;
}

static int digit_run(const char *at, const char *end, int count, int *out) {
    if (end - at < count) return 0;
    int value = 0;
    for (int i = 0; i < count; i++) {
        if (at[i] < '0' || at[i] > '9') return 0;
        value = value * 10 + (at[i] - '0');
    }
    *out = value;
    return 1;
}

static int in_range(int64_t ticks, int64_t *out) {
    if (ticks < 0 || ticks > LAST_TICK) return FK_E_MOMENT;
    *out = ticks;
    return FK_OK;
}

/* at: behind "/Date(" */
static int parse_wcf(const char *at, const char *end, int64_t *out) {
    int negative = at < end && *at == '-';
    if (negative) at++;
    int64_t milliseconds = 0;
    int digits = 0;
    for (; at < end && *at >= '0' && *at <= '9'; at++, digits++) {
        if (digits == 15) return FK_E_MOMENT;
        milliseconds = milliseconds * 10 + (*at - '0');
    }
    if (!digits || milliseconds > LAST_TICK / 10000) return FK_E_MOMENT; /* also keeps the product in range */
    int ignored;
    if (at < end && (*at == '+' || *at == '-')) {
        if (!digit_run(at + 1, end, 4, &ignored)) return FK_E_MOMENT;
        at += 5;
    }
    if (at == end || *at++ != ')') return FK_E_MOMENT;
    if (at < end && *at == '\\') at++;
    if (end - at != 1 || *at != '/') return FK_E_MOMENT;
    return in_range(UNIX_EPOCH_TICKS + (negative ? -milliseconds : milliseconds) * 10000, out);
}

static int parse_offset(const char *at, const char *end, int64_t *seconds) {
    if (end - at == 1 && (*at == 'Z' || *at == 'z')) return 1;
    if (at == end || (*at != '+' && *at != '-')) return 0;
    int hours, minutes = 0;
    const char *digits = at + 1;
    if (!digit_run(digits, end, 2, &hours)) return 0;
    digits += 2;
    if (digits < end) {
        if (*digits == ':') digits++;
        if (!digit_run(digits, end, 2, &minutes)) return 0;
        digits += 2;
    }
    if (digits != end || hours > 14 || minutes > 59 || (hours == 14 && minutes)) return 0;
    *seconds = (INT64_C(60) * hours + minutes) * (*at == '-' ? -60 : 60);
    return 1;
}

int fk_moment_parse(const char *text, size_t length, int64_t *ticks) {
    const char *at = text, *end = text + length;
    if (length >= 6 && memcmp(at, "/Date(", 6) == 0) return parse_wcf(at + 6, end, ticks);
    if (length >= 7 && memcmp(at, "\\/Date(", 7) == 0) return parse_wcf(at + 7, end, ticks);

    int year, month, day, hour = 0, minute = 0, second = 0;
    int64_t fraction = 0, offset = 0;
    if (length < 10 || !digit_run(at, end, 4, &year) || at[4] != '-' || !digit_run(at + 5, end, 2, &month) ||
        at[7] != '-' || !digit_run(at + 8, end, 2, &day))
        return FK_E_MOMENT;
    if (year < 1 || month < 1 || month > 12 || day < 1) return FK_E_MOMENT;
    if (day > DAYS_IN_MONTH[month] + (month == 2 && is_leap(year))) return FK_E_MOMENT;
    at += 10;
    if (at < end) {
        if ((*at != 'T' && *at != 't' && *at != ' ') || !digit_run(at + 1, end, 2, &hour) || end - at < 4 ||
            at[3] != ':' || !digit_run(at + 4, end, 2, &minute))
            return FK_E_MOMENT;
        at += 6;
        if (at < end && *at == ':') {
            if (!digit_run(at + 1, end, 2, &second)) return FK_E_MOMENT;
            at += 3;
            if (at < end && *at == '.') {
                int digits = 0;
                for (at++; at < end && *at >= '0' && *at <= '9'; at++, digits++)
                    if (digits < 7) fraction = fraction * 10 + (*at - '0');
                if (digits < 1 || digits > 16) return FK_E_MOMENT;
                for (; digits < 7; digits++) fraction *= 10;
            }
        }
        if (hour > 23 || minute > 59 || second > 59) return FK_E_MOMENT;
        if (at < end && !parse_offset(at, end, &offset)) return FK_E_MOMENT;
    }
    int64_t seconds = days_before(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset;
    return in_range(seconds * TICKS_PER_SECOND + fraction, ticks);
}

static char *put_digits(char *out, int value, int count) {
    for (int i = count - 1; i >= 0; i--, value /= 10) out[i] = (char)('0' + value % 10);
    return out + count;
}

/* Writes yyyy-MM-ddTHH:mm:ss and returns its end, NULL if the year has no four digits. */
static char *put_second(int64_t ticks, char *out) {
    if (ticks < 0 || ticks > LAST_TICK) return NULL;
    int days = (int)(ticks / TICKS_PER_DAY), seconds = (int)(ticks % TICKS_PER_DAY / TICKS_PER_SECOND);
    days += 306; /* since 0000-03-01 */
    int era = days / 146097, day_of_era = days % 146097;
    int year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int shifted_month = (5 * day_of_year + 2) / 153;
    int day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    int month = shifted_month < 10 ? shifted_month + 3 : shifted_month - 9;
    int year = era * 400 + year_of_era + (month <= 2);

    out = put_digits(out, year, 4);
    *out++ = '-';
    out = put_digits(out, month, 2);
    *out++ = '-';
    out = put_digits(out, day, 2);
    *out++ = 'T';
    out = put_digits(out, seconds / 3600, 2);
    *out++ = ':';
    out = put_digits(out, seconds / 60 % 60, 2);
    *out++ = ':';
    return put_digits(out, seconds % 60, 2);
}

int fk_moment_iso(int64_t ticks, char *out) {
    char *at = put_second(ticks, out);
    if (!at) return 0;
    int fraction = (int)(ticks % TICKS_PER_SECOND), digits = 7;
    if (fraction) {
        for (; fraction % 10 == 0; fraction /= 10) digits--;
        *at++ = '.';
        at = put_digits(at, fraction, digits);
    }
    *at++ = 'Z';
    return (int)(at - out);
}

int fk_moment_milliseconds(int64_t ticks, char *out) {
    char *at = put_second(ticks, out);
    if (!at) return 0;
    *at++ = '.';
    at = put_digits(at, (int)(ticks % TICKS_PER_SECOND / 10000), 3);
    *at++ = 'Z';
    return (int)(at - out);
}
