// Java's own client. Over http:// it asks for an upgrade to h2c with its first request, body and all.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;

public class Draw {
  public static void main(String[] arguments) throws Exception {
    var client = HttpClient.newHttpClient();
    for (int k = 1; k < arguments.length; k++) {
      var request = HttpRequest.newBuilder(URI.create(arguments[0] + "/generate"))
          .header("Content-Type", "application/json")
          .header("Accept", "image/png")
          .POST(HttpRequest.BodyPublishers.ofString("{\"class\": \"7\", \"seed\": 1, \"steps\": 10}"))
          .build();
      var answer = client.send(request, HttpResponse.BodyHandlers.ofFile(Path.of(arguments[k])));
      System.out.println(answer.statusCode() + " " + answer.version());
    }
  }
}
