// SPDX-License-Identifier: PostgreSQL
// JDBC: statements prepared on the server, cursors by fetch size, batches, savepoints, LISTEN.
// Arguments and output as those of psycopg_session.py.

import java.io.*;
import java.sql.*;
import java.util.*;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.PGStatement;

public class JdbcSession {
    static String url;
    static boolean session, pinned;
    static final BufferedReader input = new BufferedReader(new InputStreamReader(System.in));

    static void check(boolean good, String what) {
        if (!good)
            throw new AssertionError(what);
    }

    static void moved() throws IOException {
        System.out.println("MOVE");
        System.out.flush();
        input.readLine();
    }

    static Connection connect() throws SQLException {
        return DriverManager.getConnection(url);
    }

    static String value(Connection conn, String sql) throws SQLException {
        try (Statement statement = conn.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getString(1);
        }
    }

    static void execute(Connection conn, String sql) throws SQLException {
        try (Statement statement = conn.createStatement()) {
            statement.execute(sql);
        }
    }

    static void ordinary(Connection conn, PreparedStatement select) throws SQLException {
        conn.setAutoCommit(false);
        execute(conn, "DELETE FROM driver_items");
        try (PreparedStatement insert =
                     conn.prepareStatement("INSERT INTO driver_items VALUES (?, ?)")) {
            for (int n = 0; n < 50; n++) {
                insert.setInt(1, n);
                insert.setString(2, "item " + n);
                insert.addBatch();
            }
            check(insert.executeBatch().length == 50, "batch");
        }
        Savepoint savepoint = conn.setSavepoint();
        try {
            execute(conn, "SELECT 1/0");
            check(false, "no error");
        } catch (SQLException error) {
            check("22012".equals(error.getSQLState()), error.toString());
        }
        conn.rollback(savepoint);
        conn.commit();
        try (Statement statement = conn.createStatement()) {
            statement.setFetchSize(7);
            ResultSet rows = statement.executeQuery("SELECT id FROM driver_items ORDER BY id");
            int expected = 0;
            while (rows.next())
                check(rows.getInt(1) == expected++, "cursor");
            check(expected == 50, "rows of the cursor");
        }
        conn.rollback();
        conn.setAutoCommit(true);
        for (int n = 0; n < 8; n++) {
            select.setInt(1, n);
            try (ResultSet rows = select.executeQuery()) {
                check(rows.next() && rows.getString(1).equals("item " + n), "prepared");
            }
        }
        check(select.unwrap(PGStatement.class).isUseServerPrepare(), "prepared on the server");
        check(conn.isValid(20), "valid");
        check(conn.getMetaData().getTables(null, "public", "driver_items", null).next(), "metadata");
    }

    static void useState(Connection conn, int turn) throws SQLException {
        check(value(conn, "SHOW work_mem").equals("7MB"), "work_mem");
        if (pinned)
            check(value(conn, "SELECT sum(n) FROM mine").equals("3"), "temporary table");
        check(conn.getSchema().equals("pg_temp") || value(conn, "SHOW search_path").contains("pg_temp"),
              "search_path");
        try (Connection other = connect()) {
            execute(other, "NOTIFY driver, '" + turn + "'");
        }
        PGNotification[] notes = conn.unwrap(PGConnection.class).getNotifications(60000);
        check(notes != null && notes.length == 1 && notes[0].getName().equals("driver") &&
              notes[0].getParameter().equals("" + turn), "notification");
    }

    public static void main(String[] args) throws Exception {
        pinned = args[4].equals("session");
        session = pinned || args[4].equals("movable");
        url = "jdbc:postgresql://" + args[0] + ":" + args[1] + "/" + args[2] + "?user=" + args[3] +
              "&prepareThreshold=1&sslmode=disable&ApplicationName=jdbc";
        try (Connection conn = connect();
             PreparedStatement select =
                     conn.prepareStatement("SELECT note FROM driver_items WHERE id = ?")) {
            ordinary(conn, select);
            if (session) {
                execute(conn, "SET work_mem TO '7MB'");
                execute(conn, "SET search_path TO public, pg_temp");
                execute(conn, "LISTEN driver");
                conn.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            }
            if (pinned) {
                execute(conn, "CREATE TEMP TABLE mine (n int)");
                execute(conn, "INSERT INTO mine VALUES (1), (2)");
                execute(conn, "SELECT pg_advisory_lock(4713)");
            }
            for (int turn = 0; turn < 3; turn++) {
                moved();
                if (session) {
                    useState(conn, turn);
                    check(conn.getTransactionIsolation() == Connection.TRANSACTION_SERIALIZABLE,
                          "isolation");
                }
                ordinary(conn, select);
            }
            if (pinned)
                check(value(conn, "SELECT pg_advisory_unlock(4713)").equals("t"), "lock");
        }
        System.out.println("DONE");
    }
}
