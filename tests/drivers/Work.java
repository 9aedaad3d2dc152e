// SPDX-License-Identifier: PostgreSQL
// Ordinary work with pgjdbc.  Prints what it sees: the same lines directly and through the proxy.
//   java Work.java HOST PORT DATABASE TABLE
import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.*;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.*;
import java.util.concurrent.*;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

public class Work {
    static String url;
    static String table;

    static Connection connect(String... options) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", "app");
        for (int i = 0; i < options.length; i += 2)
            properties.setProperty(options[i], options[i + 1]);
        return DriverManager.getConnection(url, properties);
    }

    static void say(Object... things) {
        StringBuilder line = new StringBuilder();
        for (Object thing : things)
            line.append(line.length() == 0 ? "" : " ").append(thing);
        System.out.println(line);
    }

    static void types(Connection conn) throws SQLException {
        String sql = "SELECT ?::int8, ?::numeric, ?::text, ?::bytea, ?::timestamptz, ?::int[], ?::uuid,"
            + " ?::bool, ?::float8, ?::date";
        // Past prepareThreshold the statement is a named one, and results are binary.
        for (int i = 0; i < 8; i++) {
            try (PreparedStatement st = conn.prepareStatement(sql)) {
                st.setLong(1, 9007199254740993L + i);
                st.setBigDecimal(2, new BigDecimal("12345678901234567890.0001"));
                st.setString(3, "gr\u00fc\u00df \ud83d\ude00 " + i);
                st.setBytes(4, new byte[] {0, 1, (byte) 255, (byte) i});
                st.setObject(5, OffsetDateTime.of(2026, 1, 31, 12, 0, 0, 123456000, ZoneOffset.UTC));
                st.setArray(6, conn.createArrayOf("int4", new Integer[] {1, null, i}));
                st.setObject(7, UUID.fromString("00000000-0000-0000-0000-00000000000" + i));
                st.setBoolean(8, i % 2 == 0);
                st.setDouble(9, 1.0 / 3);
                st.setNull(10, Types.DATE);
                try (ResultSet rs = st.executeQuery()) {
                    rs.next();
                    say("types", rs.getLong(1), rs.getBigDecimal(2), rs.getString(3),
                        Arrays.toString(rs.getBytes(4)),
                        rs.getObject(5, OffsetDateTime.class).toInstant(),
                        Arrays.toString((Integer[]) rs.getArray(6).getArray()), rs.getString(7),
                        rs.getBoolean(8), rs.getDouble(9), rs.getDate(10));
                }
            }
        }
    }

    static void transactions(Connection conn) throws SQLException {
        conn.setAutoCommit(false);
        try (PreparedStatement st = conn.prepareStatement("INSERT INTO " + table + " VALUES (?, ?)",
                                                          Statement.RETURN_GENERATED_KEYS)) {
            for (int i = 0; i < 50; i++) {
                st.setInt(1, i);
                st.setString(2, "batch " + i);
                st.addBatch();
            }
            say("batch", Arrays.stream(st.executeBatch()).sum());
        }
        Savepoint savepoint = conn.setSavepoint("here");
        try (Statement st = conn.createStatement()) {
            st.executeUpdate("INSERT INTO " + table + " VALUES (1, 'twice')");
        } catch (SQLException error) {
            say("error", error.getSQLState());
        }
        conn.rollback(savepoint);
        conn.commit();
        try (Statement st = conn.createStatement()) {
            st.executeUpdate("DELETE FROM " + table);
            conn.rollback();
            // A cursor: only in a transaction.
            st.setFetchSize(7);
            int rows = 0;
            try (ResultSet rs = st.executeQuery("SELECT id FROM " + table + " ORDER BY id")) {
                while (rs.next())
                    rows += rs.getInt(1) == rows ? 1 : 1000;
            }
            say("rows", rows);
        }
        conn.commit();
        conn.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        conn.setReadOnly(true);
        try (Statement st = conn.createStatement()) {
            ResultSet rs = st.executeQuery("SHOW transaction_isolation");
            rs.next();
            say("isolation", rs.getString(1));
            st.executeUpdate("DELETE FROM " + table);
        } catch (SQLException error) {
            say("error", error.getSQLState());
        }
        conn.rollback();
        conn.setReadOnly(false);
        conn.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
        conn.setAutoCommit(true);
    }

    static void copy(Connection conn) throws Exception {
        CopyManager copy = conn.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder data = new StringBuilder();
        for (int i = 1000; i < 21000; i++)
            data.append(i).append("\tcopied\n");
        say("copy in", copy.copyIn("COPY " + table + " FROM STDIN", new StringReader(data.toString())));
        try {
            copy.copyIn("COPY " + table + " FROM STDIN", new StringReader("no number\tx\n"));
        } catch (SQLException error) {
            say("error", error.getSQLState());
        }
        StringWriter out = new StringWriter();
        say("copy out", copy.copyOut("COPY (SELECT * FROM " + table + " WHERE id >= 1000 ORDER BY id)"
                                     + " TO STDOUT", out), out.toString().equals(data.toString()));
    }

    static void errors(Connection conn) throws Exception {
        try (PreparedStatement st = conn.prepareStatement("SELECT 1 / ?")) {
            for (int i = 7; i >= 0; i--) {
                st.setInt(1, i % 7);
                try (ResultSet rs = st.executeQuery()) {
                    rs.next();
                    say("divided", rs.getInt(1));
                } catch (SQLException error) {
                    say("error", error.getSQLState());
                }
            }
        }
        Statement slow = conn.createStatement();
        Thread canceller = new Thread(() -> {
            try {
                Thread.sleep(1000);
                slow.cancel();
            } catch (Exception error) {
                say("cancel", error);
            }
        });
        canceller.start();
        try {
            slow.execute("SELECT pg_sleep(30)");
        } catch (SQLException error) {
            say("error", error.getSQLState());
        }
        canceller.join();
        slow.setQueryTimeout(1);
        try {
            slow.execute("SELECT pg_sleep(30)");
        } catch (SQLException error) {
            say("error", error.getSQLState());
        }
        slow.close();
        // Its type changes under a statement that is prepared: pgjdbc prepares it again.
        try (Statement st = conn.createStatement();
             PreparedStatement query = conn.prepareStatement("SELECT * FROM " + table + "_2")) {
            st.execute("CREATE TABLE " + table + "_2 AS SELECT 1 AS a");
            for (int i = 0; i < 7; i++)
                query.executeQuery().close();
            st.execute("ALTER TABLE " + table + "_2 ALTER a TYPE text");
            try (ResultSet rs = query.executeQuery()) {
                rs.next();
                say("altered", rs.getString(1));
            } finally {
                st.execute("DROP TABLE " + table + "_2");
            }
        }
    }

    static void metadata(Connection conn) throws SQLException {
        try (ResultSet rs = conn.getMetaData().getColumns(null, "public", table, null)) {
            while (rs.next())
                say("column", rs.getString("COLUMN_NAME"), rs.getString("TYPE_NAME"));
        }
        try (Statement st = conn.createStatement()) {
            st.execute("SELECT 1; SELECT 2, 3; UPDATE " + table + " SET note = note WHERE id < 10");
            say("several", st.getResultSet() != null, st.getMoreResults(), st.getMoreResults(),
                st.getUpdateCount());
        }
    }

    static int worker(int number) throws SQLException {
        int sum = 0;
        try (Connection conn = connect("ApplicationName", "worker " + number, "prepareThreshold", "2");
             PreparedStatement st = conn.prepareStatement(
                 "SELECT count(*) + ?, current_setting('application_name') FROM " + table)) {
            for (int i = 0; i < 40; i++) {
                st.setInt(1, i);
                try (ResultSet rs = st.executeQuery()) {
                    rs.next();
                    sum += rs.getInt(1) - 20050 == i && rs.getString(2).equals("worker " + number) ? 1 : 1000;
                }
            }
        }
        return sum;
    }

    public static void main(String[] args) throws Exception {
        url = "jdbc:postgresql://" + args[0] + ":" + args[1] + "/" + args[2];
        table = args[3];
        try (Connection conn = connect(); Statement st = conn.createStatement()) {
            st.execute("CREATE TABLE " + table + " (id int PRIMARY KEY, note text)");
            try {
                types(conn);
                transactions(conn);
                copy(conn);
                errors(conn);
                metadata(conn);
                ExecutorService pool = Executors.newFixedThreadPool(8);
                List<Future<Integer>> results = new ArrayList<>();
                for (int i = 0; i < 8; i++) {
                    int number = i;
                    results.add(pool.submit(() -> worker(number)));
                }
                for (Future<Integer> result : results)
                    say("worker", result.get());
                pool.shutdown();
                for (String mode : new String[] {"extended", "extendedForPrepared", "extendedCacheEverything"}) {
                    try (Connection other = connect("preferQueryMode", mode)) {
                        types(other);
                    }
                }
            } finally {
                st.execute("DROP TABLE " + table);
            }
        }
        say("done");
    }
}
