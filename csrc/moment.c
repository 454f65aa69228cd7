/* Points in time: ISO 8601 and /Date()/ to ticks and back, in the proleptic Gregorian calendar. */
#include "internal.h"

#define TICKS_PER_DAY (INT64_C(86400) * TICKS_PER_SECOND)

static const uint8_t DAYS_IN_MONTH[13] = {0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

static int is_leap(int year) { return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0; }

/* Days since 0001-01-01. The year is counted from March, so that the leap day comes last. */
static int64_t days_before(int year, int month, int day) {
    int y = month > 2 ? year : year - 1;
    int m = month > 2 ? month - 3 : month + 9;
    return INT64_C(365) * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 307;
}

int moment_join(const calendar *m, int64_t *ticks) {
    if (m->year < 1 || m->year > 9999 || m->month < 1 || m->month > 12 || m->day < 1) return FK_E_MOMENT;
    if (m->day > DAYS_IN_MONTH[m->month] + (m->month == 2 && is_leap(m->year))) return FK_E_MOMENT;
    int64_t seconds = days_before(m->year, m->month, m->day) * 86400 + m->hour * 3600 + m->minute * 60 + m->second;
    *ticks = seconds * TICKS_PER_SECOND + m->ticks;
    return FK_OK;
}

int moment_split(int64_t ticks, calendar *out) {
    if (ticks < 0 || ticks > LAST_TICK) return FK_E_MOMENT;
    int days = (int)(ticks / TICKS_PER_DAY), seconds = (int)(ticks % TICKS_PER_DAY / TICKS_PER_SECOND);
    days += 306; /* since 0000-03-01 */
    int era = days / 146097, day_of_era = days % 146097;
    int year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int shifted_month = (5 * day_of_year + 2) / 153;
    out->day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    out->month = shifted_month < 10 ? shifted_month + 3 : shifted_month - 9;
    out->year = era * 400 + year_of_era + (out->month <= 2);
    out->hour = seconds / 3600;
    out->minute = seconds / 60 % 60;
    out->second = seconds % 60;
    out->ticks = (int)(ticks % TICKS_PER_SECOND);
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

    calendar m = {0, 0, 0, 0, 0, 0, 0};
    int64_t offset = 0;
    if (length < 10 || !digit_run(at, end, 4, &m.year) || at[4] != '-' || !digit_run(at + 5, end, 2, &m.month) ||
        at[7] != '-' || !digit_run(at + 8, end, 2, &m.day))
        return FK_E_MOMENT;
    at += 10;
    if (at < end) {
        if ((*at != 'T' && *at != 't' && *at != ' ') || !digit_run(at + 1, end, 2, &m.hour) || end - at < 4 ||
            at[3] != ':' || !digit_run(at + 4, end, 2, &m.minute))
            return FK_E_MOMENT;
        at += 6;
        if (at < end && *at == ':') {
            if (!digit_run(at + 1, end, 2, &m.second)) return FK_E_MOMENT;
            at += 3;
            if (at < end && *at == '.') {
                int digits = 0;
                for (at++; at < end && *at >= '0' && *at <= '9'; at++, digits++)
                    if (digits < 7) m.ticks = m.ticks * 10 + (*at - '0');
                if (digits < 1 || digits > 16) return FK_E_MOMENT;
                for (; digits < 7; digits++) m.ticks *= 10;
            }
        }
        if (m.hour > 23 || m.minute > 59 || m.second > 59) return FK_E_MOMENT;
        if (at < end && !parse_offset(at, end, &offset)) return FK_E_MOMENT;
    }
    if (moment_join(&m, ticks) != FK_OK) return FK_E_MOMENT;
    return in_range(*ticks - offset * TICKS_PER_SECOND, ticks);
}

char *put_digits(char *out, int value, int count) {
    for (int i = count - 1; i >= 0; i--, value /= 10) out[i] = (char)('0' + value % 10);
    return out + count;
}

/* Writes yyyy-MM-ddTHH:mm:ss and returns its end. */
static char *put_second(const calendar *m, char *out) {
    out = put_digits(out, m->year, 4);
    *out++ = '-';
    out = put_digits(out, m->month, 2);
    *out++ = '-';
    out = put_digits(out, m->day, 2);
    *out++ = 'T';
    out = put_digits(out, m->hour, 2);
    *out++ = ':';
    out = put_digits(out, m->minute, 2);
    *out++ = ':';
    return put_digits(out, m->second, 2);
}

int fk_moment_iso(int64_t ticks, char *out) {
    calendar m;
    if (moment_split(ticks, &m) != FK_OK) return 0;
    char *at = put_second(&m, out);
    int fraction = m.ticks, digits = 7;
    if (fraction) {
        for (; fraction % 10 == 0; fraction /= 10) digits--;
        *at++ = '.';
        at = put_digits(at, fraction, digits);
    }
    *at++ = 'Z';
    return (int)(at - out);
}

int fk_moment_milliseconds(int64_t ticks, char *out) {
    calendar m;
    if (moment_split(ticks, &m) != FK_OK) return 0;
    char *at = put_second(&m, out);
    *at++ = '.';
    at = put_digits(at, m.ticks / 10000, 3);
    *at++ = 'Z';
    return (int)(at - out);
}
